"""Greedy DPP in plain NumPy, one request and one pick at a time: slow, obvious, what the fast versions must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.mmr.reference import LARGEST, without_full_groups
from shortlist.kernels.numerics import lane_dot, log

FLOOR = np.float32(1e-6)  # squared distance from the span of what is picked, below which a candidate adds nothing


def dpp_reference(
    items: NDArray[Any],
    rows: NDArray[np.int32],
    relevance: NDArray[np.float32],
    trade_off: NDArray[np.float32],
    k: int,
    *,
    groups: NDArray[np.int32] | None = None,
    max_per_group: int = 0,
) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.dpp`, for valid input."""
    picks = np.full((len(rows), k), -1, np.int32)
    for b in range(len(rows)):
        left = np.flatnonzero(rows[b] >= 0)
        vectors = items[np.maximum(rows[b], 0)]
        residual = lane_dot(vectors, vectors)  # [N] squared distance from the span of what is picked
        factor = np.zeros(
            (k, rows.shape[1]), np.float32
        )  # rows of the Cholesky factor of the picked items' Gram matrix
        for slot in range(min(k, len(left))):
            bounded = np.where(residual[left] > FLOOR, np.minimum(residual[left], LARGEST), FLOOR)
            values = trade_off[b] * relevance[b, left] + (np.float32(1) - trade_off[b]) * log(bounded)
            best = left[np.argmax(values)]
            picks[b, slot] = best
            left = left[left != best]
            if groups is not None:
                left = without_full_groups(left, picks[b, : slot + 1], groups[rows[b]], max_per_group)
            if not len(left):
                break
            if residual[best] > FLOOR:
                explained = np.zeros(len(left), np.float32)
                for before in range(slot):
                    explained += factor[before, best] * factor[before, left]
                similarity = lane_dot(vectors[left], vectors[best])
                factor[slot, left] = (similarity - explained) / np.sqrt(residual[best])
                residual[left] -= factor[slot, left] * factor[slot, left]
    return picks
