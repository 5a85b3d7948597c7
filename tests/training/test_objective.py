"""The objective: which events a batch predicts, from what, and that sampling everything is no sampling."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.models.items import ItemTower
from shortlist.models.transformer import TransformerTower
from shortlist.training.objective import Batch, NextItemObjective, make_batch
from shortlist.training.windows import cut_windows
from shortlist.types import Float32

LOG = InteractionLog.from_arrays(
    np.repeat([0, 2, 3], [5, 1, 3]),
    np.array([3, 1, 4, 0, 5, 2, 5, 3, 1]),
    user_ids=["a", "empty", "b", "c"],
    item_ids=list("012345"),
)


def positions(examples: Examples) -> Float32:
    return np.stack([examples.users, examples.positions], axis=1).astype(np.float32)


def batch(side: Any = None, weights: Float32 | None = None, size: int = 3) -> Batch:
    windows = cut_windows(LOG, size)
    return make_batch(LOG, windows, np.arange(len(windows.starts)), side, weights)


def objective(**options: Any) -> NextItemObjective:
    torch.manual_seed(0)
    made = NextItemObjective(TransformerTower(4, layers=1, dropout=0.0), ItemTower(6, 4), LOG, **options)
    return made.train()


def test_a_window_that_goes_on_does_not_predict_its_first_event_again() -> None:
    assert batch().weights.tolist() == [[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_side_features_belong_to_the_event_that_is_predicted() -> None:
    gathered = batch(positions)
    real = gathered.rows >= 0
    users, places = gathered.side[real].numpy().astype(np.int64).T
    np.testing.assert_array_equal(LOG.rows[LOG.offsets[users] + places], gathered.rows[real].numpy())


def test_events_weigh_as_the_log_says() -> None:
    weights = np.arange(len(LOG), dtype=np.float32)
    assert batch(weights=weights).weights[3].tolist() == [6, 7, 8, 0]


def losses(mask_seen: bool) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return objective(mask_seen=mask_seen, negatives=None)(*batch()), _by_hand(mask_seen)


def _by_hand(mask_seen: bool) -> Tensor:
    """Every event alone: its window's earlier items in, its item against all (others than those) out."""
    model, total, count = objective(mask_seen=mask_seen, negatives=None), torch.zeros(()), 0
    for start, length, first in zip(*vars(cut_windows(LOG, 3)).values(), strict=True):
        for stop in range(0 if first else 1, length):
            rows = torch.from_numpy(LOG.rows[start : start + stop].astype(np.int64))
            history = model.items(rows)[None] if stop else torch.zeros(1, 1, 4)
            logits = model.tower(history, torch.tensor([stop]), torch.zeros(1, 0)) @ model.items.all().T
            if mask_seen:
                logits[0, rows] = -torch.inf
            total, count = total - logits.log_softmax(1)[0, LOG.rows[start + stop]], count + 1
    return total / count


def test_the_loss_is_that_of_every_event_predicted_alone() -> None:
    torch.testing.assert_close(*losses(mask_seen=False), rtol=1e-2, atol=1e-3)


def test_with_seen_items_masked_they_do_not_count() -> None:
    torch.testing.assert_close(*losses(mask_seen=True), rtol=1e-2, atol=1e-3)


def test_drawing_the_whole_catalogue_equals_the_full_softmax() -> None:
    full, sampled = (objective(mask_seen=True, negatives=n)(*batch()) for n in (None, 1000))
    torch.testing.assert_close(full, sampled)
