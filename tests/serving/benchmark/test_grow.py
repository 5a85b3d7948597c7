"""A grown bundle is served like any other, and its catalogue and people are shaped like life."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.errors import ConfigError
from shortlist.serving.benchmark.grow import NEIGHBOURS, grow
from shortlist.stages.retrieve import EXACT_UP_TO
from shortlist.training import index
from shortlist.types import Request, Slate
from tests.factories import make_bundle

ITEMS, USERS = 20_000, 3000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(
        tmp_path_factory.mktemp("trained") / "bundle", items=400, users=60, group_by="creator", max_per_group=2
    )


@pytest.fixture(scope="module", autouse=True)
def _many_items() -> Iterator[None]:
    """The way of large catalogues: items in the order of the index's cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "FLAT_UP_TO", 1000)
        yield


@pytest.fixture(scope="module")
def grown(trained: Path) -> Bundle:
    return Bundle.open(grow(trained, trained.parent / "grown", ITEMS, USERS, seed=1))


def test_it_is_served(grown: Bundle) -> None:
    assert ITEMS > EXACT_UP_TO
    (slate,) = Cascade(grown).recommend([Request(user_id=b"user-0", k=10)])
    assert isinstance(slate, Slate)
    assert len(set(slate.item_ids)) == 10


def test_every_id_leads_to_its_row(grown: Bundle) -> None:
    catalogue = Cascade(grown).catalog
    ids = [catalogue.ids.id(row) for row in range(ITEMS)]
    assert catalogue.ids.rows(ids).tolist() == list(range(ITEMS))


def test_ids_have_several_lengths(grown: Bundle) -> None:
    assert len(np.unique(np.diff(grown.array("item_offsets")))) > 5


def test_copies_stay_near_their_cluster_but_differ(trained: Path, grown: Bundle) -> None:
    original, vectors = Bundle.open(trained).array("table")[:, :16], grown.array("table")[:2000, :16]
    nearest = np.sort(vectors @ original.T / np.linalg.norm(vectors, axis=1, keepdims=True), axis=1)
    assert np.median(nearest[:, -1] - nearest[:, -2]) > 0.1
    assert len(np.unique(vectors, axis=0)) == len(vectors)


def test_vectors_keep_their_scale(trained: Path, grown: Bundle) -> None:
    original, vectors = Bundle.open(trained).array("table")[:, :16], grown.array("table")[:, :16]
    assert np.linalg.norm(vectors, axis=1).mean() == pytest.approx(np.linalg.norm(original, axis=1).mean(), rel=0.05)


def test_the_filter_and_the_diversifier_know_the_same_vectors(grown: Bundle) -> None:
    vectors = grown.array("table")[:, :16]
    assert np.allclose(grown.array("filter_items")[:, :16], vectors, atol=2e-3)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(grown.array("diversity_items"), units, atol=2e-3)


def test_rows_near_each_other_are_alike(grown: Bundle) -> None:
    vectors = grown.array("table")[:, :16]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = (units[1:] * units[:-1]).sum(axis=1).mean()
    assert cosine > 5 * abs((units * np.random.default_rng(0).permutation(units)).sum(axis=1).mean())


def test_the_index_proposes_the_rows_that_score_best(grown: Bundle) -> None:
    retrieve = Cascade(grown).retrieve
    person = retrieve.vectors[:1000].mean(axis=0, keepdims=True)
    best = np.argsort(-(retrieve.vectors @ person[0]))[:20]
    assert np.isin(best, retrieve.index.search(person, 100)).mean() > 0.8


def test_items_of_a_history_are_alike(grown: Bundle) -> None:
    vectors, offsets = grown.array("table")[:, :16], grown.array("profile_offsets")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of_people = [units[grown.array("profile_rows")[a:b]] for a, b in pairwise(offsets[:300]) if b - a > 5]
    within = np.mean([np.linalg.norm(rows.mean(axis=0)) for rows in of_people])
    strangers = [np.random.default_rng(n).choice(units, len(rows)) for n, rows in enumerate(of_people)]
    assert within > 1.2 * np.mean([np.linalg.norm(rows.mean(axis=0)) for rows in strangers])


def test_few_items_have_most_events(grown: Bundle) -> None:
    counts = np.sort(np.bincount(grown.array("profile_rows"), minlength=ITEMS))[::-1]
    assert counts[: ITEMS // 10].sum() > 0.4 * counts.sum()


def test_popularity_lists_go_by_the_events(grown: Bundle) -> None:
    counts = np.bincount(grown.array("profile_rows"), minlength=ITEMS)
    assert counts[grown.array("popularity_rows")[0, 0]] == counts.max()
    assert (np.diff(grown.array("popularity_shares"), axis=1) <= 0).all()


def test_histories_are_ragged_and_nobody_takes_an_item_twice(grown: Bundle) -> None:
    offsets, rows = grown.array("profile_offsets"), grown.array("profile_rows")
    lengths = np.diff(offsets)
    assert 0.02 < (lengths == 0).mean() < 0.1
    assert lengths.max() > 10 * np.median(lengths)
    people = np.repeat(np.arange(USERS), lengths)
    assert len(np.unique(people * ITEMS + rows)) == len(rows)


def test_item_item_channels_are_bounded_and_sorted(grown: Bundle) -> None:
    indptr, indices = grown.array("linear0_indptr"), grown.array("linear0_indices")
    assert np.diff(indptr).max() <= NEIGHBOURS
    assert all((np.diff(indices[a:b]) >= 0).all() for a, b in pairwise(indptr[:200]))


def test_groups_stay_small(trained: Path, grown: Bundle) -> None:
    before = np.bincount(Bundle.open(trained).array("item_groups")).max()
    assert np.bincount(grown.array("item_groups")).max() <= 20 * before


def test_the_same_seed_makes_the_same_bundle(trained: Path, grown: Bundle, tmp_path: Path) -> None:
    assert Bundle.open(grow(trained, tmp_path / "again", ITEMS, USERS, seed=1)).version == grown.version


def test_it_says_what_it_is_for(grown: Bundle) -> None:
    assert "seed 1" in grown.metadata["benchmark_only"]


def test_fewer_items_than_were_trained_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--items = 100: at least 400 are allowed"):
        grow(trained, tmp_path / "small", 100, 10)
