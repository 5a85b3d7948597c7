"""Keeping the best candidates by a stage's scores: the last step of the filter and of the ranker."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from shortlist.kernels.arrays import is_cupy
from shortlist.kernels.top_k import top_k
from shortlist.kernels.top_k.cpu import best_positions
from shortlist.types import Candidates, Float32, Int32


def keep_best(candidates: Candidates, scores: Float32, depth: int) -> Candidates:
    """The `depth` best of `candidates` by `scores` [B, N], best first; equal scores keep the earlier order.

    NaN counts as -inf, and so stays before the padding.
    """
    if is_cupy(scores):
        return _keep_on_device(candidates, scores, depth)
    shape = len(scores), min(depth, scores.shape[1])
    kept = Candidates(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty((*shape, 2), np.float32))
    _take(candidates.rows, scores, candidates.channels, kept.rows, kept.scores, kept.channels)
    return kept


def _keep_on_device(candidates: Candidates, scores: Any, depth: int) -> Candidates:
    best = top_k(scores, min(depth, scores.shape[1]))
    kept = np.take_along_axis(scores, best, axis=1)
    return Candidates(
        np.take_along_axis(candidates.rows, best, axis=1),
        np.where(np.isnan(kept), np.float32(-np.inf), kept),
        np.take_along_axis(candidates.channels, best[..., None], axis=1),
    )


@njit(nogil=True, no_cfunc_wrapper=True)
def _take(
    rows: Int32,  # [B, N]
    scores: Float32,  # [B, N]
    channels: Float32,  # [B, N, 2]
    kept_rows: Int32,  # [B, K] written to, as are the next two
    kept_scores: Float32,  # [B, K]
    kept_channels: Float32,  # [B, K, 2]
) -> None:
    for b in range(len(rows)):
        best_positions(scores[b], kept_rows[b])
        for slot in range(kept_rows.shape[1]):
            position = kept_rows[b, slot]
            score = scores[b, position]
            kept_rows[b, slot] = rows[b, position]
            kept_scores[b, slot] = score if score == score else -np.inf
            for channel in range(channels.shape[2]):
                kept_channels[b, slot, channel] = channels[b, position, channel]
