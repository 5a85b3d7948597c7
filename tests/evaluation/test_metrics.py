"""Metrics against values computed by hand and against slow, obvious references."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.evaluation.metrics import (
    Catalogue,
    auc,
    coverage,
    diversity,
    hit_rate,
    measure,
    ndcg,
    novelty,
    reciprocal_rank,
    serendipity,
    target_ranks,
)

LISTS = np.array([[4, 2, 7, -1], [1, 3, 5, 6], [-1, -1, -1, -1]], np.int32)
TARGETS = np.array([7, 0, 2], np.int32)


def test_rank_is_the_place_in_the_list() -> None:
    assert target_ranks(LISTS, TARGETS)[0] == 2


def test_a_target_outside_the_list_misses_at_every_cutoff() -> None:
    assert hit_rate(target_ranks(LISTS, TARGETS), 10**6).tolist() == [1, 0, 0]


def test_third_place_is_a_hit_at_three_and_not_at_two() -> None:
    ranks = target_ranks(LISTS, TARGETS)
    assert (hit_rate(ranks, 3)[0], hit_rate(ranks, 2)[0]) == (1, 0)


def test_ndcg_of_the_third_place_is_one_half() -> None:
    assert ndcg(target_ranks(LISTS, TARGETS), 10).tolist() == [0.5, 0, 0]


def test_reciprocal_rank_of_the_third_place_is_one_third() -> None:
    assert reciprocal_rank(target_ranks(LISTS, TARGETS), 10) == pytest.approx([1 / 3, 0, 0])


def test_auc_counts_only_unseen_items_and_halves_ties() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1, 0.8, 0.2]], np.float32)
    seen = (np.array([0]), np.array([0]))  # item 0 was seen; unseen beside target 1: 2 ties, 3 and 5 below, 4 above
    assert auc(scores, np.array([1], np.int32), seen) == pytest.approx([(2 + 0.5) / 4])


def test_auc_without_any_negative_is_chance() -> None:
    assert auc(np.ones((1, 1), np.float32), np.array([0], np.int32), (np.array([], int), np.array([], int))) == [0.5]


@given(st.integers(0, 10_000))
def test_auc_agrees_with_counting_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (4, 15)).astype(np.float32)
    targets = rng.integers(0, 15, 4).astype(np.int32)
    seen_of = [set(rng.choice(15, 5, replace=False).tolist()) for _ in range(4)]
    expected = []
    for row, target, seen in zip(scores, targets, seen_of, strict=True):
        others = [score for item, score in enumerate(row) if item != target and item not in seen]
        wins = [1.0 if row[target] > s else 0.5 if row[target] == s else 0.0 for s in others]
        expected.append(sum(wins) / len(others))
    pairs = [(b, item) for b, seen in enumerate(seen_of) for item in seen]
    batch, rows = (np.array(column) for column in zip(*pairs, strict=True))
    assert auc(scores, targets, (batch, rows)) == pytest.approx(expected)


def test_novelty_is_the_information_of_the_listed_items() -> None:
    popularity = np.array([5, 0, 1])  # with one more each: 6, 1, 2 of 9
    rows = np.array([[0, 1], [2, -1]], np.int32)
    expected = [(-math.log2(6 / 9) - math.log2(1 / 9)) / 2, -math.log2(2 / 9)]
    assert novelty(rows, popularity) == pytest.approx(expected)


def test_a_rare_item_is_more_novel_than_a_popular_one() -> None:
    popular, rare = novelty(np.array([[0], [1]], np.int32), np.array([100, 1]))
    assert rare > popular


def test_a_hit_that_popularity_also_lists_is_not_serendipitous() -> None:
    ranks, targets = np.array([0, 0]), np.array([3, 4], np.int32)
    popular = np.array([[3, 9], [9, 4]], np.int32)
    assert serendipity(ranks, targets, popular, 1).tolist() == [0, 1]


def test_equal_items_have_no_diversity_and_orthogonal_ones_have_full() -> None:
    content = np.array([[1, 0], [2, 0], [0, 3]], np.float32)
    assert diversity(np.array([[0, 1], [0, 2]], np.int32), content) == pytest.approx([0, 1])


def test_a_list_of_one_item_has_no_diversity() -> None:
    assert diversity(np.array([[0, -1]], np.int32), np.ones((1, 2), np.float32)) == [0]


@given(st.integers(0, 10_000))
def test_diversity_agrees_with_comparing_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(20, 4)).astype(np.float32)
    content[3] = 0
    rows = np.stack([rng.choice(20, 6, replace=False) for _ in range(3)]).astype(np.int32)
    rows[0, 4:] = -1
    expected = []
    for row in rows:
        vectors = [content[item] / max(np.linalg.norm(content[item]), 1e-12) for item in row if item >= 0]
        pairs = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
        expected.append(1 - sum(pairs) / len(pairs))
    assert diversity(rows, content) == pytest.approx(expected, abs=1e-6)


def test_coverage_is_the_share_of_items_that_appear_anywhere() -> None:
    assert coverage(LISTS, 12) == 7 / 12


def test_recall_equals_hit_rate_with_one_relevant_item() -> None:
    values = measure(LISTS, TARGETS, Catalogue(np.ones(8, np.int64), None), LISTS)
    assert values["recall@10"].tolist() == values["hr@10"].tolist()


def test_every_metric_has_one_value_per_example() -> None:
    values = measure(LISTS, TARGETS, Catalogue(np.ones(8, np.int64), np.eye(8, dtype=np.float32)), LISTS)
    assert {value.shape for value in values.values()} == {(3,)}


def test_without_content_there_is_no_diversity_metric() -> None:
    assert "diversity@10" not in measure(LISTS, TARGETS, Catalogue(np.ones(8, np.int64), None), LISTS)
