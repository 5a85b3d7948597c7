"""The decay tower: its pools weigh recent events more. What all towers promise is in test_towers."""

import pytest
import torch

from shortlist.models.decay import DecayTower
from tests.models.towers import D, decay_tower


@pytest.fixture
def tower() -> DecayTower:
    return decay_tower()


def test_pools_sum_to_one_and_recent_events_weigh_more(tower: DecayTower) -> None:
    weights = tower.weights(torch.tensor([3, 2, 1, 0, -1]))  # [pools, L]: four events, oldest first, and a pad
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[:, 4] == 0).all()
    assert (weights[:2, 1:4] > weights[:2, :3]).all()
    torch.testing.assert_close(weights[2, :4], torch.full((4,), 0.25))


def test_no_decay_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="decays is 0; at least 1"):
        DecayTower(D, decays=0)
