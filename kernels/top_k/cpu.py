"""Top-k on the CPU (Numba): a histogram of the leading bits drops most values, a radix sort orders the few that remain.

Hardly anything branches on the data, so that they hardly change the time. `best_positions` is for other Numba code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.kernels.lanes import inlined, internal, stack

Entries = NDArray[np.uint64]  # a key in the upper half, the position it came from in the lower: no two are equal

CAPACITY = 4096  # entries on the stack, twice: 64 KiB
BINS = 2048  # of the histogram
BITS = 9  # of one digit of the radix sort
DIGITS = 1 << BITS
BLOCK = 64  # values skipped together when none of them can be among the best


def top_k(values: NDArray[np.float32], k: int, out: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.top_k`, for arrays already checked; strided rows are copied."""
    positions: NDArray[np.int32] = np.empty((len(values), k), np.int32) if out is None else out
    _each_row(np.ascontiguousarray(values), positions)
    return positions


def warm_up() -> None:
    """Compile for writable and for read-only rows, so that no request does."""
    values, positions = np.zeros((2, 2), np.float32), np.empty((2, 1), np.int32)
    frozen = values.view()
    frozen.flags.writeable = False
    for rows in (values, frozen):
        _each_row(rows, positions)


@njit(nogil=True, no_cfunc_wrapper=True)
def _each_row(values: NDArray[np.float32], positions: NDArray[np.int32]) -> None:
    for row in range(len(values)):
        best_positions(values[row], positions[row])


@internal()
def best_positions(values: NDArray[np.float32], positions: NDArray[np.int32]) -> int:
    """Positions of the largest `values` [N], best first, into `positions` [K]; -1 where K > N.

    Returns how many there are. Scratch lies on the stack; only more than 2,048 out of more than 4,096 values take it
    from the heap.
    """
    needed = min(len(values), 2 * len(positions))
    entries = stack(2, CAPACITY, np.uint64) if needed <= CAPACITY else np.empty((2, needed), np.uint64)
    count: int = _collect(values, len(positions), entries[0], entries[1])
    for slot in range(count):
        positions[slot] = np.int32(np.uint32(entries[0, slot]))
    for slot in range(count, len(positions)):
        positions[slot] = -1
    return count


@inlined
def _collect(values: NDArray[np.float32], k: int, entries: Entries, spare: Entries) -> int:
    """Entries of the `k` best values, in order, at the start of `entries`; returns their number.

    Values are appended until the memory is full, then all but the best k are dropped; from then on only what exceeds
    the k-th best is appended: an equal value comes later, and loses.
    """
    seen: int = min(len(values), len(entries))
    count: int = seen
    for i in range(seen):
        entries[i] = _entry(values[i], i)
    while True:
        count = _keep_best(entries, spare, count, k)
        if seen == len(values):
            return count
        seen, count = _append_above(values, seen, _value(entries[count - 1]), entries, count)


@inlined
def _append_above(
    values: NDArray[np.float32], start: int, threshold: np.float32, entries: Entries, count: int
) -> tuple[int, int]:
    """Append what exceeds `threshold`, until values or memory end: the number of values seen, and that of entries."""
    while start < len(values) and count + BLOCK <= len(entries):
        block = values[start : start + BLOCK]
        found = False
        for value in block:
            found |= value > threshold
        if found:
            for i in range(len(block)):
                entries[count] = _entry(block[i], start + i)
                count += block[i] > threshold
        start += len(block)
    return start, count


@inlined
def _entry(value: np.float32, position: int) -> Any:
    """Ascends where values descend: NaN counts as -inf, -0 as 0; equal values ascend by position."""
    number = value + np.float32(0) if value == value else np.float32(-np.inf)
    bits = np.float32(number).view(np.uint32)
    key = bits if bits >> np.uint32(31) else np.uint32(0x7FFFFFFF) - bits
    return np.uint64(key) << np.uint64(32) | np.uint64(position)


@inlined
def _value(entry: np.uint64) -> Any:
    """The value of an entry."""
    key = np.uint32(entry >> np.uint64(32))
    bits = key if key >> np.uint32(31) else np.uint32(0x7FFFFFFF) - key
    return np.uint32(bits).view(np.float32)


@inlined
def _keep_best(entries: Entries, spare: Entries, count: int, k: int) -> int:
    """Sort the `k` lowest of the first `count` entries to the front; returns their number."""
    if count == 0:
        return 0
    lowest, highest = np.uint64(0xFFFFFFFF), np.uint64(0)
    for i in range(count):
        key = entries[i] >> np.uint64(32)
        lowest, highest = min(lowest, key), max(highest, key)
    if count > k:
        count, highest = _drop(entries, count, k, lowest, highest)
    _sort(entries, spare, count, lowest, highest)
    return min(count, k)


@inlined
def _drop(entries: Entries, count: int, k: int, lowest: np.uint64, highest: np.uint64) -> tuple[int, np.uint64]:
    """Keep the entries in the lowest bins that hold `k` together: their number, and a bound on their keys."""
    shift = np.uint64(0)
    while (highest - lowest) >> shift >= BINS:
        shift += np.uint64(1)
    bins = stack(1, BINS, np.int32)[0]
    for bin_ in range(BINS):
        bins[bin_] = 0
    for i in range(count):
        bins[((entries[i] >> np.uint64(32)) - lowest) >> shift] += 1
    last, held = np.uint64(0), bins[0]
    while held < k:
        last += np.uint64(1)
        held += bins[last]
    kept = 0
    for i in range(count):
        entry = entries[i]
        entries[kept] = entry
        kept += ((entry >> np.uint64(32)) - lowest) >> shift <= last
    return kept, min(highest, lowest + ((last + np.uint64(1)) << shift) - np.uint64(1))


@inlined
def _sort(entries: Entries, spare: Entries, count: int, lowest: np.uint64, highest: np.uint64) -> None:
    """Radix sort by the digits in which keys from `lowest` to `highest` differ, the least significant first; stable."""
    ends = stack(1, DIGITS, np.int32)[0]
    source, target = entries, spare
    shift = np.uint64(0)
    while (highest - lowest) >> shift:
        _scatter(source, target, count, lowest, shift, ends)
        source, target = target, source
        shift += np.uint64(BITS)
    if (shift // np.uint64(BITS)) & np.uint64(1):  # the last pass went to `spare`
        for i in range(count):
            entries[i] = spare[i]


@inlined
def _scatter(
    source: Entries, target: Entries, count: int, lowest: np.uint64, shift: np.uint64, ends: NDArray[np.int32]
) -> None:
    """One pass: the entries of `source` into `target`, ordered by the digit that begins at bit `shift` of the key."""
    mask = np.uint64(DIGITS - 1)
    for digit in range(DIGITS):
        ends[digit] = 0
    for i in range(count):
        ends[(((source[i] >> np.uint64(32)) - lowest) >> shift) & mask] += 1
    before = 0
    for digit in range(DIGITS):
        before, ends[digit] = before + ends[digit], before
    for i in range(count):
        place = (((source[i] >> np.uint64(32)) - lowest) >> shift) & mask
        target[ends[place]] = source[i]
        ends[place] += 1
