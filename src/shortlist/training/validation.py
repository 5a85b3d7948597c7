"""NDCG@10 of a tower on validation examples, the whole catalogue ranked: the figure that stops training early.

Reported figures come from `shortlist.evaluation`; this one only has to be quick and to order epochs rightly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.data.splits import Examples
from shortlist.models.items import ItemTower
from shortlist.training.objective import SideFeatures

CUTOFF = 10
BATCH = 256
SCORES_AT_ONCE = 2**26  # 256 MB


@torch.no_grad()
def validation_ndcg(
    tower: nn.Module, items: ItemTower, examples: Examples, side: SideFeatures | None, window: int, mask_seen: bool
) -> float:
    """Mean NDCG@10 over `examples`; `mask_seen` leaves the items of the whole history out of the ranking."""
    tower.eval()
    items.eval()
    table = items.all()
    total = 0.0
    size = max(1, min(BATCH, SCORES_AT_ONCE // len(table)))
    for start in range(0, len(examples), size):
        part = examples.subset(slice(start, start + size))
        scores = user_states(tower, items, part, side, window) @ table.T
        targets = torch.from_numpy(part.targets().astype(np.int64)).to(scores.device)
        wanted = scores.gather(1, targets[:, None])
        if mask_seen:
            _hide_histories(scores, part)
        rank = (scores >= wanted).sum(1) - 1  # ties count against the target; a hidden target (a repeat) has rank -1
        gain = torch.where((rank >= 0) & (rank < CUTOFF), 1 / torch.log2(rank.clamp_min(0) + 2.0), 0.0)
        total += float(gain.sum())
    return total / max(len(examples), 1)


def user_states(
    tower: nn.Module, items: ItemTower, examples: Examples, side: SideFeatures | None, window: int
) -> Tensor:
    """User vectors [E, D] of a few examples, each from its latest `window` events."""
    rows, lengths = examples.histories(0, len(examples), window)
    longest = max(1, int(lengths.max(initial=1)))
    features = np.zeros((len(examples), 0), np.float32) if side is None else side(examples)
    device = items.embedding.device
    vectors = items(torch.from_numpy(rows[:, :longest]).to(device))
    states: Tensor = tower(vectors, torch.from_numpy(lengths).to(device), torch.from_numpy(features).to(device))
    return states


def _hide_histories(scores: Tensor, examples: Examples) -> None:
    """Set the scores [E, N] of items in each example's whole history to minus infinity, in place."""
    positions = examples.positions.astype(np.int64)
    row = np.repeat(np.arange(len(examples)), positions)
    step = np.arange(len(row)) - np.repeat(np.cumsum(positions) - positions, positions)
    items = examples.log.rows[examples.log.offsets[examples.users[row]] + step].astype(np.int64)
    scores[torch.from_numpy(row).to(scores.device), torch.from_numpy(items).to(scores.device)] = -torch.inf
