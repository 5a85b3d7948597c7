"""The filter's input is laid out as the student was trained, and the best candidates stay."""

import numpy as np

from shortlist.stages.filter import fuse_features, keep_best
from shortlist.types import Candidates


def test_features_are_product_item_retrieval_side() -> None:
    rows = np.array([[1, -1]], np.int32)
    channels = np.array([[[5.0, 6.0], [0.0, 0.0]]], np.float32)
    vectors = np.array([[2.0, 3.0]], np.float32)
    side = np.array([[9.0]], np.float32)
    retrieval = np.array([[0, 0], [10.0, 100.0]], np.float32)
    features = np.array([[0.0], [7.0]], np.float32)
    fused = fuse_features(rows, channels, vectors, side, retrieval, features)
    assert fused.tolist() == [[20.0, 300.0, 7.0, 5.0, 6.0, 9.0], [0.0] * 6]


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
