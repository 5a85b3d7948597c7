"""Baselines learn the planted law, mask what was seen, and are fitted on the training log alone."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Split
from shortlist.errors import MissingExtraError
from shortlist.evaluation.baselines import (
    AlternatingLeastSquares,
    ItemNeighbours,
    Popularity,
    binary_matrix,
    cosine_neighbours,
)
from shortlist.evaluation.ease import Ease
from shortlist.evaluation.metrics import hit_rate, target_ranks
from shortlist.evaluation.protocols import recommend
from shortlist.evaluation.recommender import Recommender, history_pairs

Fit = Callable[[InteractionLog, bool], Recommender]
LEARNERS = {
    "item-knn": ItemNeighbours.fit,
    "ease": lambda train, mask_seen: Ease.fit(train, mask_seen, regularization=20.0),
    "als": lambda train, mask_seen: AlternatingLeastSquares.fit(train, mask_seen, factors=16),
}


def hits(model: Recommender, split: Split) -> float:
    ranks = target_ranks(recommend(model, split.test, 10), split.test.targets())
    return float(hit_rate(ranks, 10).mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_the_baseline_finds_the_group_that_popularity_cannot(name: str, split: Split) -> None:
    popularity = hits(Popularity.fit(split.train, mask_seen=True), split)
    assert hits(LEARNERS[name](split.train, True), split) > popularity + 0.4


@pytest.mark.parametrize("name", [*LEARNERS, "popularity"])
def test_seen_items_never_come_back(name: str, split: Split) -> None:
    fit: Fit = {**LEARNERS, "popularity": Popularity.fit}[name]
    rows = recommend(fit(split.train, True), split.test, 50)
    batch, seen, _ = history_pairs(split.test, 0, len(split.test))
    assert not (rows[batch] == seen[:, None]).any()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stranger_gets_the_popular_items(name: str, rolling: Split) -> None:
    strangers = rolling.test.subset(np.arange(3))
    empty = type(strangers)(strangers.log, strangers.users, np.zeros(3, np.int32))
    expected = Popularity.fit(rolling.train, True).scores(empty, 0, 3).argmax(axis=1)
    scores = LEARNERS[name](rolling.train, True).top(empty, 0, 3, 1)[:, 0]
    popularity = rolling.train.popularity()
    assert popularity[scores].tolist() == popularity[expected].tolist()


def test_popularity_ranks_by_training_events(split: Split) -> None:
    rows = Popularity.fit(split.train, mask_seen=False).top(split.test, 0, 1, 60)[0]
    assert (np.diff(split.train.popularity()[rows]) <= 0).all()


def test_recent_popularity_prefers_what_is_popular_now() -> None:
    log = InteractionLog.from_arrays(
        np.array([0, 0, 0, 0]),
        np.array([0, 0, 0, 1]),
        user_ids=["u"],
        item_ids=["old", "new"],
        timestamps=np.array([0, 1, 2, 100]),
    )
    recent = Popularity.fit(log, mask_seen=False, half_life=10.0)
    assert recent.ranking.argmax() == 1
    assert Popularity.fit(log, mask_seen=False).ranking.argmax() == 0


def test_neighbours_agree_with_dense_cosines(split: Split) -> None:
    dense = binary_matrix(split.train).toarray()
    cosines = dense.T @ dense / np.maximum(np.linalg.norm(dense, axis=0)[:, None] * np.linalg.norm(dense, axis=0), 1e-9)
    np.fill_diagonal(cosines, 0)
    found = cosine_neighbours(split.train, neighbours=60).toarray()
    np.testing.assert_allclose(found, cosines, atol=1e-6)


def test_each_item_keeps_its_largest_neighbours_only(split: Split) -> None:
    every = cosine_neighbours(split.train, neighbours=60).toarray()
    kept = cosine_neighbours(split.train, neighbours=3).toarray()
    for item in range(60):
        assert np.sort(kept[:, item])[-3:].tolist() == np.sort(every[:, item])[-3:].tolist()
        assert (kept[:, item] > 0).sum() <= 3


def test_items_without_evidence_follow_by_popularity(split: Split) -> None:
    rows = ItemNeighbours.fit(split.train, True, neighbours=1).top(split.test, 0, 1, 50)[0]
    scores = ItemNeighbours.fit(split.train, True, neighbours=1).scores(split.test, 0, 1)[0]
    without = rows[scores[rows] < 0]
    assert len(without) > 10
    assert (np.diff(split.train.popularity()[without]) <= 0).all()


def test_a_missing_library_names_the_extra_to_install(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(MissingExtraError, match=r"\[baselines\]"):
        AlternatingLeastSquares.fit(split.train, True)
