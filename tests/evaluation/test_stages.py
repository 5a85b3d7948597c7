"""Retention of the ranker's favourites, and recall of retrieval."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.splits import Examples, Split
from shortlist.evaluation.stages import StageScores, measure_stages, retention


def test_a_filter_that_agrees_with_the_ranker_keeps_everything() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    assert retention(scores, scores, keep=10).tolist() == [1] * 5


def test_a_filter_that_reverses_the_ranker_keeps_nothing() -> None:
    scores = np.arange(40, dtype=np.float32)[None]
    assert retention(scores, -scores, keep=20) == [0]


def test_retention_is_the_share_of_favourites_above_the_cut() -> None:
    ranker = np.array([[9, 8, 7, 1, 0]], np.float32)
    student = np.array([[5, 1, 4, 9, 0]], np.float32)  # keeps 3, 0, 2
    assert retention(ranker, student, keep=3, k=3) == pytest.approx([2 / 3])


def test_padding_is_neither_a_favourite_nor_kept() -> None:
    ranker = np.array([[3, 2, -np.inf, -np.inf]], np.float32)
    student = np.array([[0, 1, -np.inf, -np.inf]], np.float32)
    assert retention(ranker, student, keep=1, k=3) == [0.5]


def test_a_row_of_padding_loses_nothing() -> None:
    nothing = np.full((1, 4), -np.inf, np.float32)
    assert retention(nothing, nothing, keep=2) == [1]


def test_scores_of_different_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        retention(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32), keep=2)


@given(st.integers(0, 10_000))
def test_retention_agrees_with_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranker, student = rng.permuted(np.arange(60, dtype=np.float32).reshape(3, 20), axis=1), rng.random((3, 20))
    expected = [
        len(set(np.argsort(-r)[:10]) & set(np.argsort(-s)[:8])) / 10 for r, s in zip(ranker, student, strict=True)
    ]
    assert retention(ranker, student.astype(np.float32), keep=8) == pytest.approx(expected)


@dataclass
class EveryItem:
    """Retrieves the catalogue in row order; ranker and filter both prefer late rows."""

    items: int

    def stage_scores(self, examples: Examples, start: int, stop: int, n: int) -> StageScores:
        rows = np.full((stop - start, n), -1, np.int32)
        rows[:, : self.items] = np.arange(self.items)
        scores = np.where(rows >= 0, rows, -np.inf).astype(np.float32)
        return StageScores(rows, scores, scores)


@pytest.fixture(scope="module")
def stages(split: Split) -> dict[str, dict[str, float]]:
    return measure_stages(EveryItem(split.train.n_items), split.test)


def test_retrieving_the_whole_catalogue_recalls_every_target(stages: dict[str, dict[str, float]]) -> None:
    assert stages["retrieve"]["recall@100"] == 1


def test_recall_counts_targets_among_the_first(stages: dict[str, dict[str, float]], split: Split) -> None:
    assert stages["retrieve"]["recall@50"] == pytest.approx((split.test.targets() < 50).mean())


def test_the_deployed_cut_and_the_shallow_one_are_both_reported(stages: dict[str, dict[str, float]]) -> None:
    assert list(stages["filter"]) == ["retention@10", "retention@10:200->50", "retention@10:500->100"]


def test_the_retrievers_own_order_stands_beside_the_filter(stages: dict[str, dict[str, float]]) -> None:
    # of 60 candidates the retriever keeps the first 50; the ranker's ten favourites are the last ten
    assert (stages["retriever_order"]["retention@10:200->50"], stages["filter"]["retention@10:200->50"]) == (0, 1)
