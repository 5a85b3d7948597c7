"""What is MMR's own: the values it weighs, and how few products it needs."""

import numpy as np
import pytest

from shortlist.kernels.mmr import mmr
from shortlist.kernels.mmr.reference import mmr_reference
from tests.kernels.problems import Selection, draw


def test_the_first_pick_is_the_most_relevant() -> None:
    problem = draw(0, missing=0).but(trade_off=np.full(3, 0.1, np.float32))
    assert problem.by(mmr)[:, 0].tolist() == problem.relevance.argmax(axis=1).tolist()


def test_an_unlike_candidate_overtakes_a_more_relevant_one() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    relevance = np.array([[1.0, 0.9, 0.3]], np.float32)  # .5 · .9 - .5 · .8 < .5 · .3 - 0
    problem = Selection(vectors, np.arange(3, dtype=np.int32)[None], relevance, np.array([0.5], np.float32), 3)
    assert problem.by(mmr)[0].tolist() == [0, 2, 1]


def test_opposite_vectors_are_worth_more_than_orthogonal_ones() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    problem = Selection(
        vectors, np.arange(3, dtype=np.int32)[None], np.ones((1, 3), np.float32), np.zeros(1, np.float32), 2
    )
    assert problem.by(mmr)[0].tolist() == [0, 2]


@pytest.mark.parametrize("trade_off", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [500, 1000, 1024])
def test_many_candidates_equal_the_reference(count: int, trade_off: float) -> None:
    problem = draw(count, 2, count, 64, 30).but(trade_off=np.full(2, trade_off, np.float32))
    assert np.array_equal(problem.by(mmr), problem.by(mmr_reference))


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
def test_any_number_of_requests_is_answered(batch: int) -> None:
    problem = draw(0, batch)
    assert np.array_equal(problem.by(mmr), problem.by(mmr_reference))
