"""What a user tower is trained for: at every event of a window, to rank that event's item first in the catalogue.

One module holds the tower and the item tower and returns the loss of a batch, so that data-parallel training wraps it
whole. It knows batches, not epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.models.items import ItemTower
from shortlist.training.softmax import columns_of, draw_items, softmax_loss
from shortlist.training.windows import Windows, gather_events
from shortlist.types import Float32, Int64

SideFeatures = Callable[[Examples], Float32]
"""Side features Float32[E, S] (user, then context) of the events to predict."""


class Batch(NamedTuple):
    """B windows of at most L + 1 events; the state after l events predicts event l."""

    rows: Tensor  # Int64[B, L + 1] items, -1 at padding
    lengths: Tensor  # Int64[B] events of each window
    side: Tensor  # Float32[B, L + 1, S] belonging to the event that is predicted
    weights: Tensor  # Float32[B, L + 1] as a target; 0 where nothing is predicted


def make_batch(
    log: InteractionLog, windows: Windows, index: Int64, side: SideFeatures | None, weights: Float32 | None
) -> Batch:
    """Gather the windows at `index` from the log."""
    events, real = gather_events(windows, index)
    rows = np.where(real, log.rows[events], -1).astype(np.int64)
    predicted = real.copy()
    predicted[:, 0] &= windows.first[index]
    weight = predicted.astype(np.float32) * (1.0 if weights is None else weights[events])
    features = np.zeros((*rows.shape, 0), np.float32)
    if side is not None:
        users = np.searchsorted(log.offsets, events, side="right") - 1
        places = (events - log.offsets[users]).astype(np.int32)
        features = side(Examples(log, users.astype(np.int32).ravel(), places.ravel())).reshape(*rows.shape, -1)
    lengths = torch.from_numpy(windows.lengths[index])
    return Batch(torch.from_numpy(rows), lengths, torch.from_numpy(features), torch.from_numpy(weight))


def product_dtype(device: torch.device) -> torch.dtype:
    """The type of the large products: bfloat16 where `device` multiplies it in hardware, else float32."""
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


class NextItemObjective(nn.Module):
    """Mean loss of a batch under a tower and an item tower."""

    def __init__(
        self, tower: nn.Module, items: ItemTower, log: InteractionLog, *, mask_seen: bool, negatives: int | None
    ) -> None:
        super().__init__()
        self.tower, self.items = tower, items
        self.popularity: Tensor
        self.mask_seen, self.negatives = mask_seen, negatives
        share = torch.from_numpy(log.popularity().astype(np.float32)) / max(len(log), 1)
        self.register_buffer("popularity", share, persistent=False)

    def forward(self, rows: Tensor, lengths: Tensor, side: Tensor, weights: Tensor) -> Tensor:
        """A `Batch`, taken apart -> the loss, a scalar."""
        chosen = weights > 0
        targets, token_weights = rows[chosen], weights[chosen]
        seen = _seen(rows, chosen) if self.mask_seen else None
        if self.negatives is None:
            table, log_inclusion = self.items.all(), None
            vectors = table[rows[:, :-1].clamp_min(0)] * (rows[:, :-1] >= 0).unsqueeze(-1)
        else:
            drawn, log_inclusion = draw_items(targets, self.negatives, self.popularity)
            table, vectors = self.items(drawn), self.items(rows[:, :-1])
            targets = columns_of(targets, drawn)
            seen = None if seen is None else columns_of(seen, drawn)
        states = self._states(vectors, lengths, side)[chosen]
        dtype = product_dtype(states.device)
        return softmax_loss(
            states, table, targets, seen=seen, weights=token_weights, log_inclusion=log_inclusion, dtype=dtype
        )

    def _states(self, vectors: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        """States before each event, [B, L + 1, D]: the first one of an empty history."""
        nothing = torch.zeros_like(lengths)
        start = self.tower(vectors.new_zeros(len(vectors), 1, self.items.dim), nothing, side[:, 0]).unsqueeze(1)
        if vectors.shape[1] == 0:
            return cast(Tensor, start)
        forward_all = cast(Callable[[Tensor, Tensor, Tensor], Tensor], self.tower.forward_all)
        return torch.cat([start, forward_all(vectors, lengths - 1, side[:, 1:])], 1)


def _seen(rows: Tensor, chosen: Tensor) -> Tensor:
    """For each chosen event, the rows before it in its window: Int64[T, L], padded with -1."""
    window, place = chosen.nonzero(as_tuple=True)
    before = torch.arange(rows.shape[1] - 1, device=rows.device) < place[:, None]
    return torch.where(before, rows[window, :-1], -1)
