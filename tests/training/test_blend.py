"""Choosing the weights of several scorers."""

import numpy as np
import pytest

from shortlist.training.blend import choose_weights, ndcg
from shortlist.types import Float32, Int64

E, N = 300, 200


@pytest.fixture
def targets() -> Int64:
    return np.random.default_rng(0).integers(0, N, E)


def scorer(targets: Int64, strength: float, seed: int) -> Float32:
    """Noise, and `strength` on the target."""
    scores = np.random.default_rng(seed).normal(size=(E, N)).astype(np.float32)
    scores[np.arange(E), targets] += strength
    return scores


def test_two_independent_scorers_are_worth_more_than_the_better_one(targets: Int64) -> None:
    members = [scorer(targets, 2.0, 1), scorer(targets, 1.8, 2)]
    weights, found = choose_weights(members, targets)
    assert weights[0] == 1.0
    assert 0.4 < weights[1] < 1.6
    assert found > ndcg(members, [1.0, 0.0], targets, 10) + 0.03


def test_the_scale_of_a_member_does_not_matter(targets: Int64) -> None:
    first, second = scorer(targets, 2.0, 1), scorer(targets, 1.8, 2)
    weights, found = choose_weights([first, second], targets)
    scaled, same = choose_weights([first, second / 1000], targets)
    assert scaled[1] == pytest.approx(1000 * weights[1], rel=1e-3)
    assert same == pytest.approx(found, abs=1e-3)


def test_a_scorer_that_misleads_stays_out(targets: Int64) -> None:
    weights, _ = choose_weights([scorer(targets, 3.0, 1), scorer(targets, -3.0, 2)], targets)
    assert weights == [1.0, 0.0]


def test_masked_items_cannot_be_ranked(targets: Int64) -> None:
    scores = scorer(targets, 50.0, 1)
    assert ndcg([scores], [1.0], targets) == pytest.approx(1.0)
    scores[np.arange(E), targets] = -np.inf
    assert ndcg([scores], [1.0], targets) == 0.0
