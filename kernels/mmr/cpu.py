"""Greedy MMR on the CPU (Numba), lazily: after the first, similarities are computed only where they may matter.

What a candidate is worth only falls once something is picked, since it only gets closer to what is picked; what it was
worth before is therefore a bound (Minoux, "Accelerated greedy algorithms", 1978), and one below the best known value
needs no look. Picks are those of `reference.py` to the last bit, ties included. At worst all K·N·D products are done.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.greedy import (
    BLOCK,
    LARGEST,
    NOT_A_NUMBER,
    close_group,
    compiled,
    first_largest,
    padded,
    reaching,
    sixteen_dots,
    valid,
)
from shortlist.kernels.lanes import (
    LANES,
    broadcast,
    dot,
    inlined,
    internal,
    larger,
    load,
    lowest_bit,
    mul,
    smaller,
    stack,
    store,
    sub,
)
from shortlist.kernels.selection import HALF, Problem, explain, in_threads, unpacked

# Lines of the scratch tables of one request. A value is up to date when the candidate was COMPARED with as many picks
# as there are; PICKED holds the rows of the picks, one column each.
VALUE, SCALED, CLOSEST = 0, 1, 2
COMPARED, ROW, PICKED = 0, 1, 2
COLUMNS = 1104  # 1024 candidates; 4,096 bytes from line to line would make the processor see conflicts between lines
TOGETHER = 2  # requests that take turns, so that one computes while the other waits for its own results


def mmr(problem: Problem, threads: int) -> NDArray[np.int32]:
    """Same contract as `shortlist.kernels.mmr`, for a problem whose shapes and types are checked."""
    arguments = unpacked(problem)
    kernel, batch = _kernel(problem.items.dtype == HALF), len(problem.rows)
    picks: NDArray[np.int32] = np.empty((batch, problem.k), np.int32) if problem.out is None else problem.out

    def run(first: int, last: int) -> bool:
        done: bool = kernel(*arguments, first, last, picks)
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
    return compiled(_mmr, half)


def _mmr(
    items: Any,
    rows: Any,
    relevance: Any,
    trade_off: Any,
    groups: Any,
    max_per_group: int,
    first: int,
    last: int,
    picks: Any,
) -> bool:
    """Fill `picks` for requests [first, last); False if one of their values was refused, before any item is read."""
    if not valid(rows, relevance, trade_off, len(items), first, last):
        return False
    work = stack(6, COLUMNS, np.float32)
    notes = stack(6, COLUMNS, np.int32)
    for start in range(first, last, TOGETHER):
        together = min(TOGETHER, last - start)
        for j in range(together):
            _begin(rows, relevance, trade_off[start + j], work[3 * j :], start + j)
        for slot in range(picks.shape[1]):
            for j in range(together):
                b, lines, numbers = start + j, work[3 * j :], notes[3 * j :]
                best = _next(items, trade_off[b], lines, numbers, rows.shape[1], slot)
                picks[b, slot] = best
                if best >= 0:
                    _take(items, rows, trade_off[b], lines, numbers, b, slot, best, picks.shape[1])
                    if len(groups):
                        close_group(rows, groups, max_per_group, picks, b, slot, lines, VALUE)
    return True


@inlined
def _begin(rows: Any, relevance: Any, trade_off: Any, work: Any, b: int) -> None:
    """Values before anything is picked; NaN for missing candidates and for the padding."""
    count = rows.shape[1]
    for n in range(count):
        value = trade_off * relevance[b, n] if rows[b, n] >= 0 else NOT_A_NUMBER
        work[VALUE, n] = value
        work[SCALED, n] = value
    for n in range(count, padded(count)):
        work[VALUE, n] = NOT_A_NUMBER
        work[SCALED, n] = NOT_A_NUMBER


@inlined
def _next(items: Any, trade_off: Any, work: Any, notes: Any, count: int, slot: int) -> Any:
    """The position to pick now; -1 if none is left.

    The candidate with the highest bound is brought up to date first; after it, by position, those whose bound reaches
    the best value so far. Values are exact once all bounds that are left lie below the best.
    """
    best = first_largest(work, VALUE, padded(count))
    against = np.float32(1) - trade_off
    if slot < 2 or best < 0 or against == 0:
        return best
    n, value, bits, start = best, np.float32(-np.inf), np.uint64(0), -BLOCK
    while True:
        other = _update(items, against, work, notes, n, slot, value)
        if other > value or (other == value and n < best):
            best, value = n, other
        while bits == 0:
            start += BLOCK
            if start >= count:
                return best
            bits = reaching(work, VALUE, start, value)
        n = start + lowest_bit(bits)
        bits &= bits - np.uint64(1)


@inlined
def _update(items: Any, against: Any, work: Any, notes: Any, n: Any, slot: int, bound: Any) -> Any:
    """Its value, after comparing candidate `n` with the picks it has not met, unless that falls below `bound`."""
    n = np.uint64(n)  # unsigned: an index that cannot count from the end
    value, scaled, closest = work[VALUE, n], work[SCALED, n], work[CLOSEST, n]
    compared, row, picked = np.uint64(notes[COMPARED, n]), notes[ROW, n], np.uint64(slot)
    while compared < picked and value >= bound:
        pick = notes[PICKED, compared]
        similarity = dot(items, row, items, pick)
        if similarity > closest:
            closest = min(similarity, LARGEST)
        value = scaled - against * closest
        compared += np.uint64(1)
    work[VALUE, n], work[CLOSEST, n], notes[COMPARED, n] = value, closest, compared
    return value


@inlined
def _take(
    items: Any, rows: Any, trade_off: Any, work: Any, notes: Any, b: int, slot: int, best: int, slots: int
) -> None:
    """Note the pick. The first is compared with all candidates: from then on values only fall."""
    row = rows[b, best]
    notes[PICKED, slot] = row
    if slot == 0 and slots > 1 and trade_off != 1:
        count = rows.shape[1]
        for n in range(count):
            notes[ROW, n] = rows[b, n] if rows[b, n] >= 0 else row
            notes[COMPARED, n] = 1
        for n in range(count, padded(count)):
            notes[ROW, n] = row
        _compare_all(items, np.float32(1) - trade_off, work, notes, count, row)
    work[VALUE, best] = NOT_A_NUMBER


@internal(_nrt=False)
def _compare_all(items: Any, against: Any, work: Any, notes: Any, count: int, row: int) -> None:
    for start in range(0, count, LANES):
        similarity = sixteen_dots(items, notes[ROW:], start, row, items.shape[1])
        closest = smaller(larger(similarity, broadcast(-LARGEST)), broadcast(LARGEST))
        store(work, CLOSEST, start, closest)
        store(work, VALUE, start, sub(load(work, SCALED, start), mul(broadcast(against), closest)))
