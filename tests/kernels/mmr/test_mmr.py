"""The fast MMR picks what the obvious one picks, and refuses what it cannot order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.kernels.mmr import mmr
from shortlist.kernels.mmr.reference import mmr_reference


def _problem(seed: int, batch: int, count: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(batch, count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    relevance = rng.random((batch, count)).astype(np.float32)
    return vectors, relevance, rng.integers(0, count + 1, batch), rng.random(batch).astype(np.float32)


@pytest.mark.parametrize(
    ("batch", "count", "dim", "k"),
    [(1, 1, 1, 1), (3, 31, 8, 10), (4, 33, 64, 10), (16, 100, 64, 10), (2, 5, 3, 9)],
    ids=["one", "B3-N31", "B4-N33", "B16-N100", "K-above-N"],
)
def test_equals_the_reference(batch: int, count: int, dim: int, k: int) -> None:
    for seed in range(5):
        problem = _problem(seed, batch, count, dim)
        assert np.array_equal(mmr(*problem, k), mmr_reference(*problem, k))


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_pure_relevance_is_top_k(seed: int, count: int) -> None:
    vectors, relevance, _, _ = _problem(seed, 1, count, 4)
    picks = mmr(vectors, relevance, np.array([count]), np.ones(1, np.float32), 10)[0]
    assert picks[picks >= 0].tolist() == np.argsort(-relevance[0], kind="stable")[:10].tolist()


def test_a_duplicate_comes_last_when_novelty_counts() -> None:
    vectors = np.eye(4, dtype=np.float32)[None, [0, 0, 1, 2]]
    relevance = np.array([[1.0, 0.99, 0.5, 0.4]], np.float32)
    assert mmr(vectors, relevance, np.array([4]), np.array([0.5], np.float32), 4)[0].tolist() == [0, 2, 3, 1]


def test_equal_values_go_to_the_lowest_position() -> None:
    vectors = np.tile(np.eye(2, dtype=np.float32)[:1], (1, 5, 1))
    assert mmr(vectors, np.ones((1, 5), np.float32), np.array([5]), np.ones(1, np.float32), 3)[0].tolist() == [0, 1, 2]


def test_a_relevance_that_is_not_finite_is_named() -> None:
    vectors, relevance, _, trade_off = _problem(0, 2, 6, 4)
    relevance[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"relevance\(1, 3\) is not finite"):
        mmr(vectors, relevance, np.array([6, 6]), trade_off, 3)
    assert mmr(vectors, relevance, np.array([6, 3]), trade_off, 3).shape == (2, 3)  # padding may hold anything
