"""The transformer tower: causal, and it knows the order. What all towers promise is in test_towers."""

import pytest
import torch

from shortlist.models.transformer import TransformerTower
from tests.models.towers import B, D, L, S, history, transformer_tower


@pytest.fixture
def tower() -> TransformerTower:
    return transformer_tower()


def test_a_state_does_not_depend_on_later_events(tower: TransformerTower) -> None:
    changed = history()
    changed[:, 4:] = 9.0
    side, lengths = torch.zeros(B, S), torch.full((B,), L)
    states, others = (tower.forward_all(h, lengths, side) for h in (history(), changed))
    torch.testing.assert_close(states[:, :4], others[:, :4])
    assert (states[:, 4:] - others[:, 4:]).abs().max() > 0.1


def test_order_matters(tower: TransformerTower) -> None:
    lengths, side = torch.full((B,), L), torch.zeros(B, S)
    assert (tower(history(), lengths, side) - tower(history().flip(1), lengths, side)).abs().max() > 0.01


def test_histories_longer_than_the_bias_table_are_read(tower: TransformerTower) -> None:
    long = torch.randn(1, 25, D)
    assert tower(long, torch.tensor([25]), torch.zeros(1, S)).isfinite().all()


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="dim is 9; it must be a multiple of heads"):
        TransformerTower(9, heads=2)
