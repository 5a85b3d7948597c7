"""Popularity as it is now: the bundle's lists, moved by what is taken to in sliding windows.

Each window is drawn to the longer one, and the longest to the bundle's shares, by as many pseudo-events: where little
happens nothing changes, where much does the windows speak. Counting is for `shortlist.events.trending`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.types import Float32, Int32

Float64 = NDArray[np.float64]


def mixed(
    rows: Int32,
    shares: Float32,
    everyone: Float32,
    documents: Sequence[Mapping[str, Any]],
    rows_of: Callable[[Sequence[bytes]], Int32],
    pseudo_events: float,
    now_ms: int,
) -> tuple[Int32, Float32]:
    """Lists like `rows`, `shares` [G, T], best first, with what `documents` of partitions have counted.

    `everyone` [N] has the share of every item, or nothing. Items that `rows_of` does not know are left out.
    """
    trending, counts, totals = _counted(documents, rows_of, now_ms)
    if not len(trending):
        return rows, shares
    found = [_mix(r, s, everyone, trending, counts, totals, pseudo_events) for r, s in zip(rows, shares, strict=True)]
    return np.stack([r for r, _ in found]), np.stack([s for _, s in found])


def _counted(
    documents: Sequence[Mapping[str, Any]], rows_of: Callable[[Sequence[bytes]], Int32], now_ms: int
) -> tuple[Int32, Float64, Float64]:
    """Rows [M], ascending, what was counted of them in each window [W, M], the longest first, and of everything [W]."""
    rows, counts = [np.empty(0, np.int32)], [np.empty((0, 1))]
    totals = np.zeros(1)
    for document in documents:
        lives = np.array(document["half_lives_s"], np.float64)
        order = np.argsort(-lives, kind="stable")
        faded = np.exp2(-(now_ms - document["at_ms"]) / (1000 * lives))[order]
        totals = totals + np.array(document["totals"])[order] * faded
        if document["items"]:
            rows.append(rows_of([item_id.encode() for item_id, *_ in document["items"]]))
            counts.append(np.array([own for _, *own in document["items"]], np.float64)[:, order] * faded)
    known, places = np.unique(np.concatenate(rows), return_inverse=True)
    sums = np.zeros((len(known), len(totals)))
    np.add.at(sums, places, np.concatenate(counts[1:] or counts))
    return known[known >= 0], sums[known >= 0].T, totals


def _mix(
    rows: Int32,
    shares: Float32,
    everyone: Float32,
    trending: Int32,
    counts: Float64,
    totals: Float64,
    pseudo_events: float,
) -> tuple[Int32, Float32]:
    new = trending[~np.isin(trending, rows)]
    bound = shares[-1:].astype(np.float64)  # of what is not on the list
    rest = np.minimum(everyone[new], bound) if len(everyone) else np.repeat(bound, len(new))
    both, prior = np.concatenate([rows, new]), np.concatenate([shares.astype(np.float64), rest])
    own = np.minimum(np.searchsorted(trending, both), len(trending) - 1)
    for window, total in zip(counts, totals, strict=True):
        seen = np.where(trending[own] == both, window[own], 0.0)
        prior = (seen + pseudo_events * prior) / (total + pseudo_events)
    best = np.argsort(-prior, kind="stable")[: len(rows)]
    return both[best].astype(np.int32), prior[best].astype(np.float32)
