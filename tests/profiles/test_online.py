"""The step of the online-updated vector is gradient descent on the loss of training, within bounds."""

import numpy as np
import pytest
import torch

from shortlist.profiles.online import BOUND, bounded, moved, replay, step
from shortlist.training.softmax import softmax_loss
from shortlist.types import Float32, Int32

ITEMS, DIM = 40, 8
rng = np.random.default_rng(0)
items: Float32 = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
tower: Float32 = rng.normal(size=DIM).astype(np.float32)
nothing: Float32 = np.zeros(DIM, np.float32)
negatives: Int32 = np.array([1, 5, 9, 20], np.int32)
RATE, FAR = np.float32(0.1), np.float32(100)


def test_a_step_follows_the_gradient_of_the_training_loss() -> None:
    vector = torch.tensor(tower, requires_grad=True)
    sample = torch.from_numpy(items[[3, *negatives]])
    drawn = torch.tensor([0.0, *[np.log(len(negatives) / ITEMS)] * len(negatives)])
    loss = softmax_loss(vector[None], sample, torch.tensor([0]), log_inclusion=drawn)
    loss.backward()
    assert vector.grad is not None
    found = step(nothing, tower, items, 3, negatives, RATE, FAR)
    assert found == pytest.approx(-RATE * vector.grad.numpy(), abs=1e-5)


def test_the_item_that_was_taken_scores_higher_afterwards() -> None:
    drift = step(nothing, tower, items, 3, negatives, RATE, FAR)
    assert items[3] @ (tower + drift) > items[3] @ tower


def test_a_negative_that_is_left_out_changes_nothing() -> None:
    without = np.array([1, -1, 9, -1], np.int32)
    other = items.copy()
    other[[5, 20]] = 100
    assert step(nothing, tower, other, 3, without, RATE, FAR) == pytest.approx(
        step(nothing, tower, items, 3, without, RATE, FAR)
    )


def test_the_drift_never_exceeds_its_bound() -> None:
    drift = nothing
    for _ in range(100):
        drift = step(drift, tower, items, 3, negatives, np.float32(1), np.float32(0.2))
        assert np.linalg.norm(drift) <= 0.2 * np.linalg.norm(tower) * 1.0001


def test_a_drift_within_its_bound_stays_as_it_is() -> None:
    assert bounded(0.1 * tower, tower, np.float32(0.2)) is not None
    assert bounded(0.1 * tower, tower, np.float32(0.2)) == pytest.approx(0.1 * tower)


def test_what_serves_is_bounded_too() -> None:
    served = moved(tower[None], 10 * tower[None])
    assert served[0] == pytest.approx((1 + BOUND) * tower)


def test_each_person_begins_without_a_drift_and_moves_alone() -> None:
    towers = rng.normal(size=(5, DIM)).astype(np.float32)
    users, targets = np.array([0, 0, 0, 1, 1], np.int32), np.array([3, 4, 6, 3, 8], np.int32)
    drawn = np.tile(negatives, (5, 1))
    found = replay(towers, users, items, targets, drawn, RATE, FAR)
    assert not found[[0, 3]].any()
    assert found[1] == pytest.approx(step(nothing, towers[0], items, 3, negatives, RATE, FAR))
    assert found[2] == pytest.approx(step(found[1], towers[1], items, 4, negatives, RATE, FAR))
    assert found[4] == pytest.approx(step(nothing, towers[3], items, 3, negatives, RATE, FAR))
