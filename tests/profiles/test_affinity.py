"""Decayed weights of categories."""

import pytest

from shortlist.profiles.affinity import CATEGORIES, Affinities

DAY_S = 24 * 3600


def test_weights_add_up_after_decay() -> None:
    held = Affinities().moved([b"a"], 2.0, 0, DAY_S).moved([b"a"], 1.0, DAY_S, DAY_S)
    assert held.at(DAY_S, DAY_S) == {"a": 2.0}


def test_the_order_of_two_events_matters_only_by_rounding() -> None:
    early, late = (3.0, 1000), (1.0, 1000 + DAY_S)
    forward = Affinities().moved([b"a"], *early, DAY_S).moved([b"a"], *late, DAY_S)
    backward = Affinities().moved([b"a"], *late, DAY_S).moved([b"a"], *early, DAY_S)
    assert backward.at(DAY_S * 2, DAY_S)["a"] == pytest.approx(forward.at(DAY_S * 2, DAY_S)["a"], rel=1e-6)


def test_a_weight_is_not_asked_for_before_its_own_moment() -> None:
    assert Affinities().moved([b"a"], 2.0, 1_700_000_000, 1).at(0, 1) == {"a": 2.0}


def test_the_strongest_come_first() -> None:
    held = Affinities().moved([b"a"], 1.0, 0, DAY_S).moved([b"b"], 3.0, 0, DAY_S).moved([b"c"], -3.0, 0, DAY_S)
    assert list(held.at(0, DAY_S)) == ["b", "a", "c"]


def test_the_weakest_goes_when_there_are_too_many_and_a_dislike_is_not_weak() -> None:
    held = Affinities().moved([b"disliked"], -3.0, 0, DAY_S).moved([b"weak"], 0.5, 0, DAY_S)
    for i in range(CATEGORIES - 1):
        held = held.moved([f"c{i}".encode()], 1.0, 0, DAY_S)
    names = held.at(0, DAY_S)
    assert (len(names), "weak" in names, "disliked" in names) == (CATEGORIES, False, True)


def test_a_weight_of_long_ago_fades_to_nothing() -> None:
    held = Affinities().moved([b"a"], 4.0, 0, 1).moved([b"a"], 1.0, 100_000, 1)
    assert held.at(100_000, 1) == {"a": 1.0}
