"""Groups of examples are complete, disjoint and labelled with what is in them."""

from itertools import pairwise

import numpy as np
import pytest

from shortlist.evaluation.slices import by_history_length, by_popularity_decile

RNG = np.random.default_rng(0)
METRIC = {"model": RNG.random(1000)}


def test_history_groups_hold_every_example_once() -> None:
    groups = by_history_length(RNG.integers(0, 400, 1000), METRIC)
    assert sum(group.examples for group in groups) == 1000


def test_cold_users_are_a_group_of_their_own() -> None:
    groups = by_history_length(np.array([0, 0, 1, 2, 500]), {"m": np.array([1.0, 0, 1, 0, 1])})
    assert [(g.label, g.examples, g.values["m"]) for g in groups] == [("0", 2, 0.5), ("1–2", 2, 0.5), ("≥ 201", 1, 1)]


def test_deciles_hold_about_as_many_examples_each() -> None:
    groups = by_popularity_decile(RNG.permutation(1000), METRIC)
    assert len(groups) == 10
    assert all(90 <= group.examples <= 110 for group in groups)


def test_deciles_go_from_unpopular_to_popular() -> None:
    popularity = np.arange(1000)
    groups = by_popularity_decile(popularity, {"m": popularity.astype(float)})
    assert all(a.values["m"] < b.values["m"] for a, b in pairwise(groups))


def test_equal_popularity_merges_into_one_group() -> None:
    groups = by_popularity_decile(np.full(50, 3), {"m": np.ones(50)})
    assert [(group.label, group.examples) for group in groups] == [("3", 50)]


def test_group_means_add_up_to_the_whole() -> None:
    groups = by_popularity_decile(RNG.integers(0, 30, 1000), METRIC)
    total = sum(group.examples * group.values["model"] for group in groups) / 1000
    assert total == pytest.approx(METRIC["model"].mean())
