"""What MMR and DPP share inside the compiled code: checks of values, the next best candidate, sixteen similarities.

Candidates live in a scratch table with one column each, padded to a multiple of `BLOCK`; whoever may not be picked (any
more) has the value NaN, which no comparison finds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from shortlist.kernels.lanes import (
    LANES,
    at_least,
    broadcast,
    fold,
    inlined,
    larger,
    largest,
    load,
    load_tail,
    lowest_bit,
    mul_add,
)

LARGEST = np.finfo(np.float32).max
NOT_A_NUMBER = np.float32(np.nan)
BLOCK = 64  # candidates looked at together


def compiled(function: Any, half: bool, *more: Any) -> Any:
    """`function(items, rows, relevance, trade_off, groups, max_per_group, first, last, picks, *more)`, for the requests
    [first, last), which never compiles again.

    It takes every stride between rows of the items, read-only arrays and others alike.
    """
    items = types.Array(types.uint16 if half else types.float32, 2, "A", readonly=True)
    rows, relevance = (types.Array(dtype, 2, "C", readonly=True) for dtype in (types.int32, types.float32))
    trade_off, groups = (types.Array(dtype, 1, "A", readonly=True) for dtype in (types.float32, types.int32))
    picks = types.Array(types.int32, 2, "A")
    dispatcher = njit(nogil=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")(function)
    dispatcher.compile((items, rows, relevance, trade_off, groups, *(types.intp,) * 3, picks, *more))
    dispatcher.disable_compile()
    return dispatcher


@inlined
def padded(count: int) -> int:
    """`count` rounded up to a multiple of `BLOCK`."""
    return (count + BLOCK - 1) & ~(BLOCK - 1)


@inlined
def valid(rows: Any, relevance: Any, trade_off: Any, table: int, first: int, last: int) -> Any:
    """Whether all rows lie in the table, all relevance that counts is finite, and all trade-offs are in [0, 1]."""
    bad = np.int32(0)
    limit = np.int32(table)
    for b in range(first, last):
        bad |= np.int32(not (trade_off[b] >= np.float32(0) and trade_off[b] <= np.float32(1)))
        for n in range(rows.shape[1]):
            row = rows[b, n]
            strange = np.int32(row >= np.int32(0)) & np.int32(not (abs(relevance[b, n]) <= LARGEST))
            bad |= np.int32(row < np.int32(-1)) | np.int32(row >= limit) | strange
    return bad == 0


@inlined
def close_group(
    rows: Any, groups: Any, max_per_group: int, picks: Any, b: int, slot: int, work: Any, line: int
) -> None:
    """Take the candidates of the last pick's group out, if that group has had its share."""
    group = groups[rows[b, picks[b, slot]]]
    if group < 0:
        return
    members = 0
    for before in range(slot + 1):
        members += groups[rows[b, picks[b, before]]] == group
    if members >= max_per_group:
        for n in range(rows.shape[1]):
            if rows[b, n] >= 0 and groups[rows[b, n]] == group:
                work[line, n] = NOT_A_NUMBER


@inlined
def first_largest(work: Any, line: int, padded: int) -> Any:
    """The lowest position of the largest number in `work[line, :padded]`; -1 if all are NaN."""
    even = odd = broadcast(-np.inf)
    for start in range(0, padded, BLOCK):
        even = larger(load(work, line, start), even)
        odd = larger(load(work, line, start + LANES), odd)
        even = larger(load(work, line, start + 2 * LANES), even)
        odd = larger(load(work, line, start + 3 * LANES), odd)
    best = largest(larger(even, odd))
    for start in range(0, padded, BLOCK):
        bits = reaching(work, line, start, best)
        if bits:
            return start + lowest_bit(bits)
    return -1


@inlined
def reaching(work: Any, line: int, start: int, bound: Any) -> Any:
    """Bit j says whether `work[line, start + j]` is at least `bound`, for 64 candidates."""
    least = broadcast(bound)
    low = at_least(load(work, line, start), least)
    low |= at_least(load(work, line, start + LANES), least) << np.uint64(LANES)
    high = at_least(load(work, line, start + 2 * LANES), least)
    high |= at_least(load(work, line, start + 3 * LANES), least) << np.uint64(LANES)
    return low | high << np.uint64(2 * LANES)


@inlined
def sixteen_dots(items: Any, rows: Any, start: int, row: int, width: int) -> Any:
    """Inner products of the items `rows[0, start : start + 16]` with the item `row`, as lanes."""
    first = fold(
        _four_dots(items, rows, start, row, width),
        _four_dots(items, rows, start + 4, row, width),
        4,
    )
    second = fold(
        _four_dots(items, rows, start + 8, row, width),
        _four_dots(items, rows, start + 12, row, width),
        4,
    )
    return fold(first, second, 2)


@inlined
def _four_dots(items: Any, rows: Any, start: int, row: int, width: int) -> Any:
    """Four inner products, each still spread over four lanes."""
    a, b, c, d = rows[0, start], rows[0, start + 1], rows[0, start + 2], rows[0, start + 3]
    sum_a = sum_b = sum_c = sum_d = broadcast(0.0)
    whole = width & ~(LANES - 1)
    for column in range(0, whole, LANES):
        other = load(items, row, column)
        sum_a = mul_add(load(items, a, column), other, sum_a)
        sum_b = mul_add(load(items, b, column), other, sum_b)
        sum_c = mul_add(load(items, c, column), other, sum_c)
        sum_d = mul_add(load(items, d, column), other, sum_d)
    if whole < width:
        rest = width - whole
        other = load_tail(items, row, whole, rest)
        sum_a = mul_add(load_tail(items, a, whole, rest), other, sum_a)
        sum_b = mul_add(load_tail(items, b, whole, rest), other, sum_b)
        sum_c = mul_add(load_tail(items, c, whole, rest), other, sum_c)
        sum_d = mul_add(load_tail(items, d, whole, rest), other, sum_d)
    return fold(fold(sum_a, sum_b, 16), fold(sum_c, sum_d, 16), 8)
