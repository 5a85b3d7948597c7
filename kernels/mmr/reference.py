"""Greedy MMR in plain NumPy, one request and one pick at a time: slow, obvious, what the fast versions must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.numerics import lane_dot

LARGEST = np.finfo(np.float32).max


def mmr_reference(
    items: NDArray[Any],
    rows: NDArray[np.int32],
    relevance: NDArray[np.float32],
    trade_off: NDArray[np.float32],
    k: int,
    *,
    groups: NDArray[np.int32] | None = None,
    max_per_group: int = 0,
) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.mmr`, for valid input."""
    picks = np.full((len(rows), k), -1, np.int32)
    for b in range(len(rows)):
        left = np.flatnonzero(rows[b] >= 0)
        closest = np.zeros(rows.shape[1], np.float32)
        for slot in range(min(k, len(left))):
            values = trade_off[b] * relevance[b, left] - (np.float32(1) - trade_off[b]) * closest[left]
            best = left[np.argmax(values)]
            picks[b, slot] = best
            left = left[left != best]
            if groups is not None:
                left = without_full_groups(left, picks[b, : slot + 1], groups[rows[b]], max_per_group)
            if not len(left):
                break
            similarity = lane_dot(items[rows[b, left]], items[rows[b, best]])
            before = closest[left] if slot else np.float32(-LARGEST)
            closest[left] = np.minimum(np.where(similarity > before, similarity, before), LARGEST)
    return picks


def without_full_groups(
    left: NDArray[np.int64], picks: NDArray[np.int32], groups: NDArray[np.int32], max_per_group: int
) -> NDArray[np.int64]:
    """The positions `left` whose group, by position in `groups` [N], may still be picked; group -1 always may."""
    group = groups[picks[-1]]
    full = group >= 0 and (groups[picks] == group).sum() >= max_per_group
    return left[groups[left] != group] if full else left
