"""The best candidates stay, best first, whatever the scores are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shortlist.stages.best import keep_best
from shortlist.types import Candidates


def test_keep_best_orders_by_score_and_ties_by_the_earlier_order() -> None:
    candidates = Candidates(
        np.array([[4, 8, 15, 16]], np.int32), np.zeros((1, 4), np.float32), np.zeros((1, 4, 2), np.float32)
    )
    kept = keep_best(candidates, np.array([[1.0, 3.0, 3.0, -np.inf]], np.float32), 3)
    assert kept.rows.tolist() == [[8, 15, 4]]
    assert kept.scores.tolist() == [[3.0, 3.0, 1.0]]


def test_a_score_that_is_no_number_comes_last_but_before_the_padding() -> None:
    candidates = Candidates(
        np.array([[4, 8, 15, -1]], np.int32), np.zeros((1, 4), np.float32), np.zeros((1, 4, 2), np.float32)
    )
    kept = keep_best(candidates, np.array([[np.nan, 3.0, 5.0, -np.inf]], np.float32), 4)
    assert kept.rows.tolist() == [[15, 8, 4, -1]]
    assert not np.isnan(kept.scores).any()


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 40), st.integers(1, 50))
def test_rows_scores_and_channels_stay_together(seed: int, batch: int, count: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(100)[:count] for _ in range(batch)]).astype(np.int32)
    scores = rng.integers(-2, 3, (batch, count)).astype(np.float32)
    kept = keep_best(Candidates(rows, scores, np.stack([rows, scores], axis=2)), scores, depth)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    assert np.array_equal(kept.rows, np.take_along_axis(rows, order, axis=1))
    assert np.array_equal(kept.channels, np.stack([kept.rows, kept.scores], axis=2))
