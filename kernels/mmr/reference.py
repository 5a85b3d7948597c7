"""Greedy MMR in plain NumPy, one request at a time: slow, obvious, and what the fast versions must equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mmr_reference(
    vectors: NDArray[np.float32],
    relevance: NDArray[np.float32],
    lengths: NDArray[np.int64],
    trade_off: NDArray[np.float32],
    k: int,
) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.mmr.mmr`."""
    picks = np.full((len(lengths), k), -1, np.int32)
    for b, length in enumerate(lengths):
        similarity = vectors[b, :length] @ vectors[b, :length].T
        left = list(range(length))
        closest = np.zeros(length, np.float32)
        for slot in range(min(k, length)):
            values = [trade_off[b] * relevance[b, i] - (1 - trade_off[b]) * closest[i] for i in left]
            best = left.pop(int(np.argmax(values)))
            picks[b, slot] = best
            closest = similarity[best] if slot == 0 else np.maximum(closest, similarity[best])
    return picks
