"""The compiled part of feature fusion on the CPU: one pass over the item table, four candidates at a time.

A tile of four shares what is loaded of the constants, and has four independent sums to keep the processor busy. Which
arguments are allowed is not looked at here, except the rows: none is read before all are known to lie in the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shortlist.kernels.fuse_features.encoding import first_four, prefetch, read, write
from shortlist.kernels.lanes import LANES, broadcast, fold, inlined, larger, mul_add, smaller, stack

WIDEST = 2048  # item columns, and side columns: what the scratch memory holds
SCRATCH = WIDEST + LANES  # its rows should not all start at the same place of a page
TILE = 4
AHEAD = 32  # candidates between asking for a row and using it: enough for the slowest memory, few enough for any cache
LINE = 64  # bytes of a cache line
MULTIPLIER, WEIGHT, SIDE = 0, 1, 2  # rows of the scratch memory
MISSING = np.float32(-np.inf)
ONE, NOTHING = np.float32(1), np.float32(0)
P1, P2, P3 = np.uint64(1), np.uint64(2), np.uint64(3)


def fuse(
    items: Any,  # [M, W]
    rows: Any,  # int32 [B, N]
    users: Any,  # float32 [B, D]
    channels: Any,  # float32 [B, N, C]
    side: Any,  # float32 [B, S]
    multipliers: Any,  # float32 [G]
    offsets: Any,  # float32 [G]
    weights: Any,  # float32 [G]
    bias: float,
    low: float,
    high: float,
    zero: float,
    first: int,
    last: int,
    features: Any,  # [B, N, G]
    linear: Any,  # float32 [B, N]
) -> bool:
    """Fill features and linear of requests [first, last). False, and nothing done, where a row is not in the table."""
    count, width, total = rows.shape[1], items.shape[1], features.shape[2]
    if not _inside(rows, first, last, len(items)):
        return False
    all_rows, all_linear = rows.reshape(rows.size), linear.reshape(rows.size)
    all_channels = channels.reshape(rows.size, channels.shape[2])
    all_features = features.reshape(rows.size, total)
    multiplier, offset = multipliers.reshape(1, total), offsets.reshape(1, total)
    weight = weights.reshape(1, total)
    limits = broadcast(np.float32(low)), broadcast(np.float32(high))
    scratch = stack(3, SCRATCH, np.float32)
    for b in range(first, last):
        rest = _prepare(scratch, users, side, b, width, multiplier, offset, weight, np.float32(bias), limits)
        end = np.uint64((b + 1) * count - 1)
        for first_place in range(b * count, (b + 1) * count, TILE):
            n = np.uint64(first_place)  # unsigned: spares Numba the test for negative indices
            places = n, min(n + P1, end), min(n + P2, end), min(n + P3, end)  # the last tile repeats the last candidate
            wanted = _four(all_rows, places)
            valid = max(max(wanted[0], wanted[1]), max(wanted[2], wanted[3]))
            if valid >= 0:
                found = _instead(wanted, valid)
                _bring(items, all_rows, n + np.uint64(AHEAD))
                sums = _items(items, found, scratch, offset, limits, all_features, places)
                _channels(all_channels, width, multiplier, offset, limits, all_features, places)
                _side(scratch, width + channels.shape[2], side.shape[1], all_features, places)
                _linear(sums, all_channels, weight, width, rest, all_linear, places)
            if min(min(wanted[0], wanted[1]), min(wanted[2], wanted[3])) < 0:
                _clear(wanted, zero, all_features, all_linear, places)
    return True


@inlined
def _inside(rows: Any, first: int, last: int, table: int) -> bool:
    outside = np.int32(0)
    limit = np.int32(table)
    for b in range(first, last):
        for n in range(rows.shape[1]):
            outside |= np.int32(rows[b, n] < np.int32(-1)) | np.int32(rows[b, n] >= limit)
    return bool(outside == 0)


@inlined
def _prepare(
    scratch: Any,
    users: Any,
    side: Any,
    b: int,
    width: int,
    multiplier: Any,
    offset: Any,
    weight: Any,
    bias: Any,
    limits: Any,
) -> Any:
    """What is the same for all candidates of request `b`, into `scratch`; the linear part of its side columns."""
    for w in range((width + LANES - 1) & ~(LANES - 1)):
        factor = users[b, w] if w < users.shape[1] else ONE
        scratch[MULTIPLIER, w] = factor * multiplier[0, w] if w < width else NOTHING
        scratch[WEIGHT, w] = factor * weight[0, w] if w < width else NOTHING
    sides = side.shape[1]
    start = multiplier.shape[1] - sides
    for s in range(0, sides, LANES):
        count = min(LANES, sides - s)
        scale, shift = read(multiplier, 0, start + s, count), read(offset, 0, start + s, count)
        write(scratch, SIDE, s, _clipped(mul_add(read(side, b, s, count), scale, shift), limits), LANES)
    rest = bias
    for s in range(sides):
        rest += side[b, s] * weight[0, start + s]
    return rest


@inlined
def _items(items: Any, found: Any, scratch: Any, offset: Any, limits: Any, features: Any, places: Any) -> Any:
    """The item columns of four candidates, and the lanes that add up to their linear part."""
    width = items.shape[1]
    whole = width & ~(LANES - 1)
    nothing = broadcast(NOTHING)
    sums = nothing, nothing, nothing, nothing
    for w in range(0, whole, LANES):
        sums = _item_block(items, found, w, LANES, scratch, offset, limits, features, places, sums)
    if whole < width:
        sums = _item_block(items, found, whole, width - whole, scratch, offset, limits, features, places, sums)
    return sums


@inlined
def _item_block(
    items: Any,
    found: Any,
    w: int,
    count: int,
    scratch: Any,
    offset: Any,
    limits: Any,
    features: Any,
    places: Any,
    sums: Any,
) -> Any:
    scale, shift = read(scratch, MULTIPLIER, w, LANES), read(offset, 0, w, count)
    x0 = read(items, found[0], w, count)
    x1 = read(items, found[1], w, count)
    x2 = read(items, found[2], w, count)
    x3 = read(items, found[3], w, count)
    _encode(x0, x1, x2, x3, scale, shift, limits, features, places, w, count)
    weight = read(scratch, WEIGHT, w, LANES)
    return (
        mul_add(x0, weight, sums[0]),
        mul_add(x1, weight, sums[1]),
        mul_add(x2, weight, sums[2]),
        mul_add(x3, weight, sums[3]),
    )


@inlined
def _channels(channels: Any, width: int, multiplier: Any, offset: Any, limits: Any, features: Any, places: Any) -> None:
    extra = channels.shape[1]
    whole = extra & ~(LANES - 1)
    for c in range(0, whole, LANES):
        _channel_block(channels, c, LANES, width, multiplier, offset, limits, features, places)
    if whole < extra:
        _channel_block(channels, whole, extra - whole, width, multiplier, offset, limits, features, places)


@inlined
def _channel_block(
    channels: Any,
    c: int,
    count: int,
    width: int,
    multiplier: Any,
    offset: Any,
    limits: Any,
    features: Any,
    places: Any,
) -> None:
    scale, shift = read(multiplier, 0, width + c, count), read(offset, 0, width + c, count)
    x0 = read(channels, places[0], c, count)
    x1 = read(channels, places[1], c, count)
    x2 = read(channels, places[2], c, count)
    x3 = read(channels, places[3], c, count)
    _encode(x0, x1, x2, x3, scale, shift, limits, features, places, width + c, count)


@inlined
def _encode(
    x0: Any,
    x1: Any,
    x2: Any,
    x3: Any,
    scale: Any,
    shift: Any,
    limits: Any,
    features: Any,
    places: Any,
    g: int,
    count: int,
) -> None:
    write(features, places[0], g, _clipped(mul_add(x0, scale, shift), limits), count)
    write(features, places[1], g, _clipped(mul_add(x1, scale, shift), limits), count)
    write(features, places[2], g, _clipped(mul_add(x2, scale, shift), limits), count)
    write(features, places[3], g, _clipped(mul_add(x3, scale, shift), limits), count)


@inlined
def _clipped(x: Any, limits: Any) -> Any:
    """Clipped before it is rounded, which is the same since limits of integers are integers; NaN becomes the lower."""
    return smaller(larger(x, limits[0]), limits[1])


@inlined
def _side(scratch: Any, start: int, sides: int, features: Any, places: Any) -> None:
    whole = sides & ~(LANES - 1)
    for s in range(0, whole, LANES):
        _side_block(scratch, s, LANES, start, features, places)
    if whole < sides:
        _side_block(scratch, whole, sides - whole, start, features, places)


@inlined
def _side_block(scratch: Any, s: int, count: int, start: int, features: Any, places: Any) -> None:
    block = read(scratch, SIDE, s, LANES)
    write(features, places[0], start + s, block, count)
    write(features, places[1], start + s, block, count)
    write(features, places[2], start + s, block, count)
    write(features, places[3], start + s, block, count)


@inlined
def _linear(sums: Any, channels: Any, weight: Any, width: int, rest: Any, linear: Any, places: Any) -> None:
    r0 = r1 = r2 = r3 = rest
    for c in range(channels.shape[1]):
        column = np.uint64(c)
        factor = weight[0, np.uint64(width) + column]
        r0 += channels[places[0], column] * factor
        r1 += channels[places[1], column] * factor
        r2 += channels[places[2], column] * factor
        r3 += channels[places[3], column] * factor
    eights = fold(fold(sums[0], sums[1], 16), fold(sums[2], sums[3], 16), 8)
    twos = fold(eights, eights, 4)
    totals = first_four(fold(twos, twos, 2))
    linear[places[0]] = totals[0] + r0
    linear[places[1]] = totals[1] + r1
    linear[places[2]] = totals[2] + r2
    linear[places[3]] = totals[3] + r3


@inlined
def _clear(wanted: Any, zero: float, features: Any, linear: Any, places: Any) -> None:
    """Missing candidates of a tile, whose others are done already."""
    zeros, total = broadcast(np.float32(zero)), features.shape[1]
    for i in range(TILE):
        if wanted[i] < 0:
            linear[places[i]] = MISSING
            for g in range(0, total, LANES):
                write(features, places[i], g, zeros, min(LANES, total - g))


@inlined
def _bring(items: Any, rows: Any, n: int) -> None:
    """Ask for the rows of the four candidates from `n` on; missing ones and those past the end stand for any other."""
    last, size = np.uint64(len(rows) - 1), items.shape[1] * items.itemsize
    r0 = max(rows[min(n, last)], 0)
    r1 = max(rows[min(n + P1, last)], 0)
    r2 = max(rows[min(n + P2, last)], 0)
    r3 = max(rows[min(n + P3, last)], 0)
    for byte in range(0, size - 1, LINE):
        prefetch(items, r0, byte)
        prefetch(items, r1, byte)
        prefetch(items, r2, byte)
        prefetch(items, r3, byte)
    prefetch(items, r0, size - 1)
    prefetch(items, r1, size - 1)
    prefetch(items, r2, size - 1)
    prefetch(items, r3, size - 1)


@inlined
def _four(rows: Any, places: Any) -> Any:
    return rows[places[0]], rows[places[1]], rows[places[2]], rows[places[3]]


@inlined
def _instead(wanted: Any, valid: Any) -> Any:
    """`wanted` with the missing ones replaced by the row `valid`."""
    return (
        wanted[0] if wanted[0] >= 0 else valid,
        wanted[1] if wanted[1] >= 0 else valid,
        wanted[2] if wanted[2] >= 0 else valid,
        wanted[3] if wanted[3] >= 0 else valid,
    )
