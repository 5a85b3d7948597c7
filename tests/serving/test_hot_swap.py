"""Two catalogues swapped under load: no request fails, and no slate has an item of the other catalogue."""

from pathlib import Path

import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.serving.benchmark.swaps import OTHER, Seen, Swap, renamed, report, run
from shortlist.serving.client import Item, Recommendation
from tests.factories import make_bundle

FAULTS = ("failed", "mixed_slates", "slates_of_wrong_version", "older_version_after_newer", "repairs")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two catalogues of different size."""
    folder = tmp_path_factory.mktemp("swapped")
    return make_bundle(folder / "first"), make_bundle(folder / "second", items=500, seed=1)


def test_a_swap_under_load_fails_nobody_and_mixes_nothing(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(*bundles, tmp_path, requests=300, swaps=1, clients=4, rate=50, instances=1)
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert found["versions"] == 2


@pytest.mark.slow
def test_many_swaps_under_load_fail_nobody_and_mix_nothing(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    found = run(*bundles, tmp_path, requests=5000, swaps=5, clients=8, rate=100, instances=2)
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert found["versions"] == 6


def slate(version: str, *ids: str) -> Recommendation:
    return Recommendation(tuple(Item(i, 1.0, 1.0) for i in ids), "full", version=version)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (slate("1", "a", f"{OTHER}b"), "mixed_slates"),
        (slate("2", "a", "b"), "slates_of_wrong_version"),
        (slate("3", f"{OTHER}a"), "slates_of_wrong_version"),
    ],
)
def test_foreign_items_are_seen(answer: Recommendation, fault: str) -> None:
    seen = Seen(due=[0.0, 1.0], latencies=[0.01, 0.01])
    seen.take(slate("1", "a", "b"), 0)
    seen.take(answer, 1)
    found = report(seen, [Swap(2, 0.0, 1.0)], 0)
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0) | {fault: 1}


def test_an_answer_of_an_older_version_after_a_newer_one_is_seen() -> None:
    seen = Seen()
    seen.take(slate("2", f"{OTHER}a"), 0)
    seen.take(slate("1", "a"), seen.newest)
    assert seen.backwards == 1


def test_a_renamed_catalogue_shares_no_id(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    first, other = (
        IdMap.load(Bundle.open(renamed(bundles[0], tmp_path / str(n), prefix)), "item")
        for n, prefix in enumerate(("", OTHER))
    )
    assert not {first.id(row) for row in range(len(first))} & {other.id(row) for row in range(len(other))}
