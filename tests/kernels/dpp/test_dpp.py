"""What is DPP's own: greedy log-determinants, orthogonal vectors, and spans that are used up."""

import numpy as np
import pytest

from shortlist.kernels.dpp import dpp
from shortlist.kernels.dpp.reference import dpp_reference
from tests.kernels.problems import Selection, distinct, draw


def _greedy_by_determinants(problem: Selection) -> list[int]:
    """Picks that add most to log det of the picked part of the kernel matrix, in float64, by its definition."""
    vectors = problem.items[problem.rows[0]].astype(np.float64)
    weight = float(problem.trade_off[0])
    quality = np.exp(weight / (2 * (1 - weight)) * problem.relevance[0].astype(np.float64))
    kernel = quality[:, None] * (vectors @ vectors.T) * quality
    picks: list[int] = []
    for _ in range(problem.k):
        left = [n for n in range(len(vectors)) if n not in picks]
        picks.append(max(left, key=lambda n: np.linalg.slogdet(kernel[np.ix_([*picks, n], [*picks, n])])[1]))
    return picks


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("trade_off", [0.1, 0.4, 0.8])
def test_each_pick_adds_most_to_the_log_determinant(seed: int, trade_off: float) -> None:
    problem = distinct(seed, count=12, k=6).but(trade_off=np.array([trade_off], np.float32))
    assert problem.by(dpp)[0].tolist() == _greedy_by_determinants(problem)


def test_orthogonal_vectors_are_picked_by_relevance() -> None:
    relevance = np.random.default_rng(0).random((1, 16)).astype(np.float32)
    rows = np.arange(16, dtype=np.int32)[None]
    problem = Selection(np.eye(16, dtype=np.float32), rows, relevance, np.array([0.3], np.float32), 16)
    assert problem.by(dpp)[0].tolist() == np.argsort(-relevance[0]).tolist()


def test_relevance_decides_once_the_space_is_spanned() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    relevance = np.array([[1.0, 0.9, 0.1, 0.3, 0.2]], np.float32)
    rows = np.arange(5, dtype=np.int32)[None]
    assert Selection(vectors, rows, relevance, np.array([0.5], np.float32), 5).by(dpp)[0].tolist() == [0, 1, 3, 4, 2]


def test_longer_slates_than_dimensions_equal_the_reference() -> None:
    problem = draw(0, 2, 60, dim=5, k=40)
    assert np.array_equal(problem.by(dpp), problem.by(dpp_reference))


def test_many_candidates_equal_the_reference() -> None:
    problem = draw(0, 1, 1024, 64, 40)
    assert np.array_equal(problem.by(dpp), problem.by(dpp_reference))
