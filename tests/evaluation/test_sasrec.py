"""The SASRec baseline: causal, indifferent to padding, and able to learn an order that counts cannot see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Split
from shortlist.evaluation.metrics import hit_rate, target_ranks
from shortlist.evaluation.protocols import recommend
from shortlist.evaluation.sasrec import TUNED, SASRec, SASRecTower, published_window

SIDE = torch.zeros(2, 0)


@pytest.fixture
def tower() -> SASRecTower:
    torch.manual_seed(0)
    return SASRecTower(8, layers=2, heads=1, history=6, dropout=0.2).eval()


def test_a_state_does_not_see_later_events(tower: SASRecTower) -> None:
    history, lengths = torch.randn(2, 6, 8), torch.tensor([6, 6])
    changed = history.clone()
    changed[:, 4:] += 1.0
    before, after = tower.forward_all(history, lengths, SIDE), tower.forward_all(changed, lengths, SIDE)
    torch.testing.assert_close(before[:, :4], after[:, :4])


def test_padding_changes_nothing(tower: SASRecTower) -> None:
    history, lengths = torch.randn(2, 3, 8), torch.tensor([3, 2])
    padded = torch.cat([history, torch.randn(2, 3, 8)], dim=1)
    torch.testing.assert_close(tower(history, lengths, SIDE), tower(padded, lengths, SIDE))


def test_the_user_vector_is_the_last_state(tower: SASRecTower) -> None:
    history, lengths = torch.randn(2, 6, 8), torch.tensor([6, 2])
    states = tower.forward_all(history, lengths, SIDE)
    torch.testing.assert_close(tower(history, lengths, SIDE), torch.stack([states[0, 5], states[1, 1]]))


@pytest.mark.parametrize("length", [0, 3])
def test_an_empty_history_has_the_default_state(tower: SASRecTower, length: int) -> None:
    with torch.no_grad():
        tower.default += 1.0
    state = tower(torch.zeros(2, length, 8), torch.tensor([0, 0]), SIDE)
    torch.testing.assert_close(state, torch.ones(2, 8))


def test_training_finds_the_ring_of_the_planted_world(split: Split) -> None:
    model = SASRec.fit(split, mask_seen=True, recipe=replace(TUNED, dim=32, epochs=40, patience=10))
    ranks = target_ranks(recommend(model, split.test, 10), split.test.targets())
    assert hit_rate(ranks, 10).mean() > 0.7


@pytest.mark.parametrize(("events", "window"), [(10, 50), (80, 200)])
def test_the_window_follows_the_length_of_histories(events: int, window: int) -> None:
    items = [str(i) for i in range(events)]
    log = InteractionLog.from_arrays(np.zeros(events, int), np.arange(events), user_ids=["a", "idle"], item_ids=items)
    assert published_window(log) == window
