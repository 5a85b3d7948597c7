"""The compiled part of retrieval: item-item channels are added up, and fused with what the index proposes.

`state` [N] is everywhere scratch of the catalogue's length, all zeros before and after. Who calls what, and in which
order, is `shortlist.stages.retrieve`'s business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.catalog import AHEAD, LINE
from shortlist.kernels.fuse_features.encoding import prefetch
from shortlist.kernels.lanes import dot, internal
from shortlist.kernels.top_k.cpu import best_positions
from shortlist.types import Float32, Int32, Int64

Bytes = NDArray[np.uint8]


@njit(nogil=True, no_cfunc_wrapper=True)
def add(
    history: Int32,  # [L] oldest first
    indptr: Int64,
    indices: Int32,
    values: Float32,
    decay: np.float32,
    linear: Float32,  # [N] added to
) -> None:
    weight = np.float32(1)
    for age in range(len(history)):
        item = history[len(history) - 1 - age]
        for i in range(indptr[item], indptr[item + 1]):
            linear[np.uint32(indices[i])] += weight * values[i]  # unsigned: spares Numba the test for negative indices
        weight *= decay


@njit(nogil=True, no_cfunc_wrapper=True)
def neighbours(history: Int32, indptr: Int64, indices: Int32, state: Bytes) -> Int32:
    """The rows that one channel adds to, each once: [T]."""
    total = 0
    for item in history:
        total += indptr[item + 1] - indptr[item]
    touched = np.empty(total, np.int32)
    count = 0
    for item in history:
        for i in range(indptr[item], indptr[item + 1]):
            row = indices[i]
            touched[count] = row
            count += state[np.uint32(row)] == 0
            state[np.uint32(row)] = 1
    for row in touched[:count]:
        state[row] = 0
    return touched[:count]


@njit(nogil=True, no_cfunc_wrapper=True)
def distinct(rows: Int32, state: Bytes) -> int:
    """How many different rows there are."""
    count = 0
    for row in rows:
        count += state[row] == 0
        state[row] = 1
    for row in rows:
        state[row] = 0
    return count


@njit(nogil=True, no_cfunc_wrapper=True)
def floor(touched: Int32, wanted: int, linear: Float32) -> Any:
    """A linear score that at least `wanted` touched rows reach: the largest such, found bit by bit."""
    if not 0 < wanted < len(touched):
        return np.float32(-np.inf)
    values = np.empty(len(touched), np.float32)
    keys = values.view(np.int32)
    for i in range(len(touched)):
        values[i] = linear[np.uint32(touched[i])]
        keys[i] = _ordered(keys[i])
    low, high = np.int64(-(2**31)), np.int64(2**31 - 1)
    while low < high:
        middle = (low + high + 1) >> 1
        reached = 0
        for key in keys:
            reached += key >= np.int32(middle)
        if reached >= wanted:
            low = middle
        else:
            high = middle - 1
    keys[0] = _ordered(np.int32(low))
    return values[0]


@internal()
def _ordered(bits: np.int32) -> Any:
    """The bits of a float32 as an integer that is larger where the float is, and back."""
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@njit(nogil=True, no_cfunc_wrapper=True)
def pool_of(
    near: Int64,  # [M] proposals of the index, -1 where it found fewer; then those of rows that it does not know
    proposed: int,  # how many of them are the index's
    touched: Int32,  # [T] rows with a linear score, of which as many propose themselves
    masked: Int32,
    linear: Float32,  # [N]
    state: Bytes,
) -> Int32:
    """Every proposed row once, masked ones left out: [P]."""
    least = floor(touched, proposed, linear)
    pool = np.empty(len(near) + len(touched), np.int32)
    count = 0
    for row in masked:
        state[row] = 1
    for row in near:
        if row >= 0 and state[row] == 0:
            state[row] = 1
            pool[count] = row
            count += 1
    for row in touched:
        if state[row] == 0 and linear[row] >= least:
            state[row] = 1
            pool[count] = row
            count += 1
    for row in pool[:count]:
        state[row] = 0
    for row in masked:
        state[row] = 0
    return pool[:count]


@njit(nogil=True, no_cfunc_wrapper=True)
def choose_from(
    pool: Int32,  # [P]
    b: int,
    users: Float32,  # [B, D]
    vectors: Float32,  # [N, D]
    linear: Float32,  # [N]
    rows: Int32,  # [B, K] written to, as are the next two
    scores: Float32,  # [B, K]
    channels: Float32,  # [B, K, 2]
) -> None:
    """The best of the pool for user `b`, with their scores. A damaged vector costs only its own items."""
    tower = np.empty(len(pool), np.float32)
    total = np.empty(len(pool), np.float32)
    for i in range(len(pool)):
        if i + AHEAD < len(pool):
            for byte in range(0, 4 * vectors.shape[1], LINE):
                prefetch(vectors, pool[i + AHEAD], byte)
        tower[i] = dot(users, b, vectors, pool[i])
        score = tower[i] + linear[pool[i]]
        total[i] = score if np.isfinite(score) else -np.inf
    best_positions(total, rows[b])
    for slot in range(rows.shape[1]):
        i = rows[b, slot]
        found = i >= 0 and total[i] > -np.inf
        rows[b, slot] = pool[i] if found else -1
        scores[b, slot] = total[i] if found else -np.inf
        channels[b, slot, 0] = tower[i] if found else 0
        channels[b, slot, 1] = linear[pool[i]] if found else 0


@njit(nogil=True, no_cfunc_wrapper=True)
def clear(linear: Float32, touched: Int32, all_rows: bool) -> None:
    """Zero what a request added: wherever it touched a row; everywhere, where these were not listed."""
    if all_rows:
        linear[:] = 0
    for row in touched:
        linear[row] = 0
