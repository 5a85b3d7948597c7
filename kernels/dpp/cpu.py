"""Greedy DPP on the CPU (Numba): an incremental Cholesky factorisation, O(K·N·(K + D)) per request, no N×N matrix.

Picks are those of `reference.py` to the last bit. The rows of the factor, float32 [min(K, N), N], are allocated once
per call (and thread), everything else lies on the stack.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from shortlist.kernels.dpp.reference import FLOOR
from shortlist.kernels.greedy import (
    LARGEST,
    NOT_A_NUMBER,
    close_group,
    compiled,
    first_largest,
    padded,
    sixteen_dots,
    valid,
)
from shortlist.kernels.lanes import LANES, dot, inlined, internal, stack, store
from shortlist.kernels.numerics import LOG_2, SQRT_2
from shortlist.kernels.selection import HALF, Problem, explain, in_threads, unpacked

# Lines of the scratch table of one request. RESIDUAL is the squared distance from the span of what is picked.
VALUE, SCALED, RESIDUAL, SIMILARITY = 0, 1, 2, 3
COLUMNS = 1104
NINTH, SEVENTH, FIFTH, THIRD = (np.float32(1 / power) for power in (9, 7, 5, 3))


def dpp(problem: Problem, threads: int) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.dpp`, for a problem whose shapes and types are checked."""
    arguments = unpacked(problem)
    kernel, (batch, count) = _kernel(problem.items.dtype == HALF), problem.rows.shape
    picks: NDArray[np.int32] = np.empty((batch, problem.k), np.int32) if problem.out is None else problem.out

    def run(first: int, last: int) -> bool:
        factor = np.empty((min(problem.k, count), -(-count // LANES) * LANES), np.float32)
        done: bool = kernel(*arguments, first, last, picks, factor)
        return done

    if not in_threads(run, batch, threads):
        raise explain(problem)
    return picks


def warm_up() -> None:
    """Compile for both types of items, so that no request does."""
    for half in (False, True):
        _kernel(half)


@cache
def _kernel(half: bool) -> Any:
    return compiled(_dpp, half, types.Array(types.float32, 2, "C"))


def _dpp(
    items: Any,
    rows: Any,
    relevance: Any,
    trade_off: Any,
    groups: Any,
    max_per_group: int,
    first: int,
    last: int,
    picks: Any,
    factor: Any,
) -> bool:
    """Fill `picks` for requests [first, last); False if one of their values was refused, before any item is read."""
    if not valid(rows, relevance, trade_off, len(items), first, last):
        return False
    work = stack(4, COLUMNS, np.float32)
    candidates = stack(1, COLUMNS, np.int32)
    for b in range(first, last):
        _begin(items, rows, relevance, trade_off[b], work, candidates, b)
        for slot in range(picks.shape[1]):
            best = first_largest(work, VALUE, padded(rows.shape[1]))
            picks[b, slot] = best
            if best < 0:
                continue
            _project(items, work, candidates, factor, rows.shape[1], slot, best, trade_off[b])
            if len(groups):
                close_group(rows, groups, max_per_group, picks, b, slot, work, VALUE)
    return True


@inlined
def _begin(items: Any, rows: Any, relevance: Any, trade_off: Any, work: Any, candidates: Any, b: int) -> None:
    """Values before anything is picked; NaN for missing candidates and for the padding, which stand in with any row."""
    count = rows.shape[1]
    some_row = np.int32(-1)
    for n in range(count):
        some_row = max(some_row, rows[b, n])
    for n in range(padded(count)):
        work[VALUE, n] = NOT_A_NUMBER
        candidates[0, n] = some_row
    for n in range(count):
        row = rows[b, n]
        if row >= 0:
            candidates[0, n] = row
            work[RESIDUAL, n] = dot(items, row, items, row)
            work[SCALED, n] = trade_off * relevance[b, n]
            work[VALUE, n] = _value(work[SCALED, n], trade_off, work[RESIDUAL, n])


@internal(_nrt=False, error_model="numpy")
def _project(
    items: Any, work: Any, candidates: Any, factor: Any, count: int, slot: int, best: int, trade_off: Any
) -> None:
    """Row `slot` of the factor, and what it leaves of residuals and values. A pick that adds nothing changes none."""
    row = factor[slot]
    if not work[RESIDUAL, best] > FLOOR:
        row[:] = 0
        work[VALUE, best] = NOT_A_NUMBER
        return
    for start in range(0, count, LANES):
        dots = sixteen_dots(items, candidates, start, candidates[0, best], items.shape[1])
        store(work, SIMILARITY, start, dots)
    for n in range(count):
        row[n] = 0
    for before in range(slot):
        share = factor[before, best]
        for n in range(count):
            row[n] += share * factor[before, n]
    length = np.sqrt(work[RESIDUAL, best])
    work[VALUE, best] = NOT_A_NUMBER
    for n in range(count):
        row[n] = (work[SIMILARITY, n] - row[n]) / length
        work[RESIDUAL, n] -= row[n] * row[n]
        value = _value(work[SCALED, n], trade_off, work[RESIDUAL, n])
        work[VALUE, n] = value if work[VALUE, n] == work[VALUE, n] else NOT_A_NUMBER


@inlined
def _value(scaled: Any, trade_off: Any, residual: Any) -> Any:
    bounded = min(residual, LARGEST) if residual > FLOOR else FLOOR
    return scaled + (np.float32(1) - trade_off) * _log(bounded)


@inlined
def _log(x: Any) -> Any:
    """`numerics.log` of one number."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(bits >> 23) - np.int32(127)
    mantissa = np.int32((bits & 0x007FFFFF) | 0x3F800000).view(np.float32)
    if mantissa >= SQRT_2:
        mantissa, exponent = mantissa * np.float32(0.5), exponent + np.int32(1)
    s = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    square = s * s
    series = (((NINTH * square + SEVENTH) * square + FIFTH) * square + THIRD) * square + np.float32(1)
    return np.float32(exponent) * LOG_2 + (s + s) * series
