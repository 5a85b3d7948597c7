"""Greedy MMR on the CPU (Numba): incremental maximum similarity, O(K·N·D) per request, no N×N matrix."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def mmr(
    vectors: NDArray[np.float32],
    relevance: NDArray[np.float32],
    lengths: NDArray[np.int64],
    trade_off: NDArray[np.float32],
    k: int,
) -> NDArray[np.int32]:
    """Pick K of N candidates for each of B requests (Carbonell & Goldstein, SIGIR 1998).

    vectors [B, N, D] (unit length: inner product is cosine), relevance [B, N] (higher is better), lengths [B] valid
    candidates per request, trade_off [B] is λ: 1 is pure relevance, 0 pure novelty. Returns positions [B, K] in order
    of choice, -1 where there are fewer than K; equal values go to the lowest position.
    Raises ValueError when shapes disagree or a valid relevance is not finite (named by its index).
    """
    batch, count, _ = vectors.shape
    if relevance.shape != (batch, count) or lengths.shape != (batch,) or trade_off.shape != (batch,):
        raise ValueError(
            f"shapes disagree: vectors {vectors.shape}, relevance {relevance.shape}, "
            f"lengths {lengths.shape}, trade_off {trade_off.shape}"
        )
    if k < 1 or (lengths > count).any() or (lengths < 0).any():
        raise ValueError(f"k must be at least 1 (got {k}) and lengths within 0..{count}")
    bad = ~np.isfinite(relevance) & (np.arange(count) < lengths[:, None])
    if bad.any():
        raise ValueError(f"relevance{tuple(int(i) for i in np.argwhere(bad)[0])} is not finite")
    picks = np.full((batch, k), -1, np.int32)
    _mmr(vectors, relevance, lengths, trade_off, picks)
    return picks


def warm_up(dim: int = 8) -> None:
    """Compile for float32 input, so that the first request does not."""
    ones = np.ones((1, 2), np.float32)
    mmr(np.ones((1, 2, dim), np.float32), ones, np.array([2]), np.ones(1, np.float32), 2)


@njit(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _mmr(
    vectors: NDArray[np.float32],
    relevance: NDArray[np.float32],
    lengths: NDArray[np.int64],
    trade_off: NDArray[np.float32],
    picks: NDArray[np.int32],
) -> None:
    dim = vectors.shape[2]
    for b in range(len(lengths)):
        length, weight = lengths[b], trade_off[b]
        closest = np.zeros(length, np.float32)
        taken = np.zeros(length, np.bool_)
        for slot in range(min(picks.shape[1], length)):
            best, best_value = -1, np.float32(-np.inf)
            for i in range(length):
                value = weight * relevance[b, i] - (np.float32(1) - weight) * closest[i]
                if not taken[i] and (best < 0 or value > best_value):
                    best, best_value = i, value
            taken[best] = True
            picks[b, slot] = best
            for i in range(length):
                similarity = np.float32(0)
                for d in range(dim):
                    similarity += vectors[b, i, d] * vectors[b, best, d]
                closest[i] = similarity if slot == 0 else max(closest[i], similarity)
