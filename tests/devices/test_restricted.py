"""The GPU's path keeps to predicates and to what is on offer: the CPU's slates, and nothing that may not be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist import bitmap
from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.devices import choose_device
from shortlist.stages import allowed
from shortlist.stages.allowed import Allowed, Known, Limits, search
from shortlist.types import Eligible, Request, Slate
from tests.devices.fake import install, write_plans
from tests.eligible import attributes_of, is_eligible, make_items, predicates
from tests.factories import make_bundle

ITEMS, USERS, BATCH, ROOM = 600, 200, 50, 100
TABLE = make_items(ITEMS)
CONTENTS = [{"genre": f"g{i % 4}", "moods": ["dark", f"m{i % 3}"], "year": 1990.0 + i} for i in range(12)]
WAYS = {"all": (4000, 2048), "index": (10, 2048), "search": (10, 0)}  # items scored anyway, what the index finds
PREDICATES: list[dict[str, Any]] = [
    {"in_stock": True},
    {"locale": ["de", "en"], "age_rating": {"max": 16, "missing": True}},
    {},
    {"genres": {"not": ["horror"], "missing": True}},
    {"locale": "is"},
    {"locale": "no such"},
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = {"attributes": attributes_of(TABLE), "contents": CONTENTS, "group_by": "brand", "max_per_group": 3}
    return make_bundle(tmp_path_factory.mktemp("restricted") / "bundle", ITEMS, USERS, **kept)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have retrieval go the way of WAYS that is named."""
    for name, value in zip(("EXACT_UP_TO", "MOST_NEAR"), WAYS[request.param], strict=True):
        monkeypatch.setattr(f"shortlist.stages.retrieve.{name}", value)
    return str(request.param)


each_way = pytest.mark.parametrize("way", WAYS, indirect=True)


def _on_gpu(path: Path, engines: Path, room: int | None = None) -> Cascade:
    write_plans(Bundle.open(path), engines)
    return Cascade.load(path, device=choose_device("gpu", engines), room=room)


def _ids(rows: Any) -> tuple[bytes, ...]:
    return tuple(f"item-{row}".encode() for row in rows)


def _slates(cascade: Cascade, requests: list[Request]) -> list[tuple[bytes, ...]]:
    answers = [a for i in range(0, len(requests), BATCH) for a in cascade.recommend(requests[i : i + BATCH])]
    assert all(isinstance(answer, Slate) for answer in answers), answers
    return [answer.item_ids for answer in answers if isinstance(answer, Slate)]


def _requests() -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request(
            f"user-{u}".encode() if u % 20 else b"",
            history=(b"item-7", b"new-2") if u % 9 == 4 else (),
            k=int(rng.integers(1, 20)),
            diversity=float(rng.choice([0, 0.3, 0.7])),
            exclude=_ids(range(0, ITEMS, 4)) if u % 7 == 0 else (),
            eligible=PREDICATES[u % len(PREDICATES)],
        )
        for u in range(USERS)
    ]


@each_way
def test_two_hundred_users_with_predicates_get_the_slates_of_the_cpu(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    expected = _slates(Cascade.load(path), _requests())
    install(monkeypatch)
    assert _slates(_on_gpu(path, tmp_path / "engines"), _requests()) == expected


def _unlike_others(i: int) -> dict[str, Any]:
    """What a new item may be, so that no two items score alike."""
    return {"genre": f"g{(i + 1) % 4}", "moods": [f"m{i % 3}"], "year": 1990.5 + i, "brand": f"b{i % 2}"}


def _offers(cascade: Cascade) -> list[list[tuple[bytes, ...]]]:
    """What two hundred users get while items come and go."""
    offer, slates = cascade.assortment, []
    assert offer is not None
    new = {f"new-{i}".encode(): _unlike_others(i) for i in range(12)}
    for removed, added in ((_ids(range(0, 60)), {}), (_ids(range(0, ITEMS, 2)), new), ((b"new-3", b"item-9"), new)):
        offer.replace(removed, added)
        offer.publish()
        slates.append(_slates(cascade, _requests()))
    offer.add(b"late", _unlike_others(30))
    offer.publish()
    return [*slates, _slates(cascade, _requests()[:BATCH])]


@each_way
def test_while_items_come_and_go_two_hundred_users_get_the_slates_of_the_cpu(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    expected = _offers(Cascade.load(path, room=ROOM))
    install(monkeypatch)
    found = _offers(_on_gpu(path, tmp_path / "engines", ROOM))
    assert found == expected
    assert any(item.startswith(b"new-") for slates in found for slate in slates for item in slate)


@pytest.fixture
def following(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> Cascade:
    """A cascade on a GPU, with room."""
    install(monkeypatch)
    return _on_gpu(path, tmp_path / "engines", ROOM)


@each_way
@settings(max_examples=10, deadline=None, suppress_health_check=[*HealthCheck])
@given(asked=st.lists(predicates(), min_size=1, max_size=4), gone=st.sets(st.integers(0, ITEMS - 1), max_size=400))
def test_nothing_that_may_not_be_shown_is_in_a_slate(
    following: Cascade, asked: list[dict[str, Any]], gone: set[int]
) -> None:
    assert following.assortment is not None
    following.assortment.replace(_ids(gone), {})
    following.assortment.publish()
    asked = [*asked, {}]
    requests = [Request(f"user-{i}".encode(), k=50, eligible=eligible) for i, eligible in enumerate(asked)]
    for slate, eligible in zip(_slates(following, requests), asked, strict=True):
        assert set(slate) <= set(_ids({i for i, item in enumerate(TABLE) if is_eligible(item, eligible)} - gone))


@each_way
def test_a_new_predicate_is_no_further_copy_and_no_further_wait(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    counts = install(monkeypatch).counts
    cascade = _on_gpu(path, tmp_path / "engines")
    before = counts.copies_in, counts.copies_out, counts.waits
    cascade.recommend([Request(b"user-0", eligible={"in_stock": True}), Request(b"user-1")])
    after = counts.copies_in, counts.copies_out, counts.waits
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_a_bitmap_stays_on_the_gpu(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    cascade = _on_gpu(path, tmp_path / "engines")
    asked = [Request(b"user-0", eligible={"in_stock": True})]
    cascade.recommend(asked)
    (eligible,) = cascade.eligibility.of(asked)
    assert eligible is not None
    first = eligible.resident
    cascade.recommend(asked)
    assert eligible.resident is first


@pytest.mark.parametrize("way", ["search"], indirect=True)
def test_the_cuda_sources_search_as_the_cpu_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    requests = [Request(b"user-0", eligible={"in_stock": True}), Request(b"user-1", eligible={"locale": "de"})]
    expected = _slates(Cascade.load(path), requests)
    install(monkeypatch, kernels="emulated")
    assert _slates(_on_gpu(path, tmp_path / "engines"), requests) == expected


def test_warming_up_leaves_everything_on_offer(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    cascade = _on_gpu(path, tmp_path / "engines", ROOM)
    cascade.warm_up()
    assert cascade.users.look_up([Request(b"user-0")]).eligible == ()


@pytest.mark.parametrize("k", [1, 30, 700])  # of groups, of some groups and slabs, of slabs alone
@pytest.mark.parametrize("at_once", [1, 1 << 40], ids=["in parts", "at once"])
def test_the_search_finds_the_best_that_are_allowed(k: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "SEARCH_BYTES", at_once)
    rng, rows, known = np.random.default_rng(0), 5000, 4900
    vectors, users = (rng.integers(-3, 4, (n, 8)).astype("f4") for n in (rows, 3))  # sums are exact, some are equal
    free = rng.random((3, rows)) < [[0.5], [0.9], [0.01]]
    free[:, known:4928] = False
    touched, barred = (np.sort(rng.choice(3 * rows, 400, replace=False)) for _ in range(2))
    linear = rng.integers(1, 5, 400).astype("f4")
    scored = np.array([True, False, True])
    bits = np.stack([bitmap.of_rows(np.flatnonzero(f).astype("i4"), rows) for f in free])
    limits = Allowed(bits, np.arange(3, dtype=np.int32), scored, 4928, range(0, rows))
    known_of = Known(touched, rows, linear), Known(barred, rows, np.float32(-np.inf))
    found = search(np, vectors, users, known_of, limits, k)
    scores = users @ vectors.T
    scores.reshape(-1)[touched] += linear
    scores.reshape(-1)[barred] = -np.inf
    scores[~free] = scores[1, :4928] = -np.inf
    for own, best in zip(scores, found, strict=True):
        expected = [row for row in np.argsort(-own, kind="stable")[:k].tolist() if own[row] > -np.inf]
        assert best[best >= 0].tolist() == sorted(expected)


def test_only_new_rows_are_scored_where_the_index_does_the_rest() -> None:
    known, rows = 600, 740
    limits = Limits(
        [Eligible(bitmap.everything(640), known, added=np.array([640, 655], np.int32))], [False], known, rows
    )
    assert limits.on_device(np, *limits.arrays).rows == range(640, 656)
