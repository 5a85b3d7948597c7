"""What each person of a batch may get, on a device other than the CPU: bitmaps that stay there, and a search by them.

FAISS's indexes on a GPU pass over no rows. Where predicates or removals bar few items, the index is asked for so many
more (`shortlist.stages.retrieve`); where they bar many, and for items that are newer than the index, every allowed row
is scored here, part by part, so that memory is bounded. That only proposes, as an index does: the pool scores again,
and asks the bitmaps whatever proposed a row. On a real GPU it has not run yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortlist.bitmap import WORD
from shortlist.kernels import top_k
from shortlist.types import Eligible

SEARCH_BYTES = 256 << 20  # that a search may take at once
COLUMN_BYTES = 32  # of them for each person, in between, beside the row's own vector
SPARE = 8  # proposals more than are wanted: sums in another order may place the last ones otherwise
LEAST_SLAB, FEWER = 512, 4  # scores of which the best go on, at least so many times fewer
GROUP = 64  # neighbouring scores of which the largest is looked at first


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of some rows for some people: a score to add to that of their vectors."""

    keys: Any  # int64 [T] person · `items` + row, padded with the largest
    items: int
    scores: Any  # float32 [T], or one for all

    def put(self, xp: Any, scores: Any, batch: int, part: slice) -> None:
        """Into `scores`, flat [batch · rows of `part` + 1], the last of which takes what lies elsewhere."""
        width = part.stop - part.start
        person, row = self.keys // self.items, self.keys % self.items
        inside = (person < batch) & (row >= part.start) & (row < part.stop)
        scores[xp.where(inside, person * width + row - part.start, batch * width)] = self.scores


@dataclass(frozen=True, slots=True)
class Allowed:
    """The rows that each of B people may get, on the device, and which of them a search has to score."""

    bits: Any  # uint8 [U, W], bitmaps of the table's rows
    which: Any  # int32 [B]: which of these is whose
    scored: Any  # bool [B]: whether all of the rows are scored, or the new ones alone
    first: int  # the first new row
    rows: range  # those to score; empty where the index does it all

    def holds(self, xp: Any, rows: Any) -> Any:
        """Whether each of `rows` [B, N] is allowed; of -1 nothing is said."""
        safe = xp.maximum(rows, 0)
        octets = self.bits[self.which[:, None], safe >> 3]
        return (octets >> (safe & 7).astype(np.uint8)) & np.uint8(1) != 0

    def to_score(self, xp: Any, part: slice) -> Any:
        """Whether each row of `part`, which begins with a byte, is to be scored: [B, rows]."""
        octets = self.bits[:, part.start // 8 : -(-part.stop // 8), None]
        flags = (octets >> xp.arange(8, dtype=np.uint8)) & np.uint8(1)
        free = flags.reshape(len(flags), -1)[:, : part.stop - part.start][self.which] != 0
        return free & (self.scored[:, None] | (xp.arange(part.start, part.stop) >= self.first))


class Limits:
    """The same, before it is brought to the device: bitmaps that are not there yet go with the batch."""

    def __init__(self, eligible: Sequence[Eligible], scored: Sequence[bool], known: int, rows: int) -> None:
        """For a table of `rows` rows, of which the index knows the first `known`."""
        self._distinct = list({id(e): e for e in eligible}.values())
        self._missing = [e for e in self._distinct if e.resident is None]
        number = {id(e): i for i, e in enumerate(self._distinct)}
        self._first = -(-known // WORD) * WORD
        end = max((int(e.added[-1]) + 1 for e in eligible if e.added is not None), default=0)
        self._rows = range(0 if any(scored) else self._first, max(end, known if any(scored) else 0))
        which = np.array([number[id(e)] for e in eligible], np.int32)
        self.arrays = [which, np.array(scored, np.bool_), *(_widened(e.bits, rows) for e in self._missing)]

    def on_device(self, xp: Any, which: Any, scored: Any, *bits: Any) -> Allowed:
        """`arrays` are there; bitmaps stay there as long as what they belong to."""
        for eligible, brought in zip(self._missing, bits, strict=True):
            eligible.resident = brought.copy()  # what it came in takes more
        return Allowed(xp.stack([e.resident for e in self._distinct]), which, scored, self._first, self._rows)


def search(xp: Any, vectors: Any, users: Any, known: Sequence[Known], allowed: Allowed, k: int) -> Any:
    """The `k` best of the rows of `vectors` [N, D] that are to be scored for each of `users` [B, D]: int32, ascending.

    Best by inner product and what is `known`, of which the last counts; -1 where there are fewer. Ascending, so that
    equal scores go to the lower row once they are made alike.
    """
    k, batch = min(k, len(allowed.rows)), len(users)
    best = xp.full((batch, 0), -np.inf, np.float32), xp.full((batch, 0), -1, np.int32)
    step = part_rows(vectors.shape[1], batch)
    for start in range(allowed.rows.start, allowed.rows.stop, step):
        part = slice(start, min(start + step, allowed.rows.stop))
        own = xp.zeros(batch * (part.stop - start) + 1, np.float32)
        for some in known:
            some.put(xp, own, batch, part)
        scores = users @ vectors[part].T + own[:-1].reshape(batch, -1)
        scores = xp.where(allowed.to_score(xp, part) & xp.isfinite(scores), scores, np.float32(-np.inf))
        scores, places = _best(xp, scores, k)
        found = scores, places + np.int32(start)
        scores, rows = (xp.concatenate(pair, axis=1) for pair in zip(best, found, strict=True))
        best = _taken(xp, scores, rows, k)
    scores, rows = best
    return _ascending(xp, xp.where(scores > -np.inf, rows, np.int32(-1)))


def part_rows(dim: int, batch: int) -> int:
    """How many rows are scored at once: as many groups as the memory allows, at least one."""
    return max(1, SEARCH_BYTES // (GROUP * (4 * dim + COLUMN_BYTES * batch))) * GROUP


def _best(xp: Any, scores: Any, k: int) -> tuple[Any, Any]:
    """The `k` best of scores [B, N], and where they are; equal ones go to the lower place.

    They are among the `k` groups of the largest maxima, which spares most scores the kernel's comparisons.
    """
    batch, count = scores.shape
    places = xp.arange(count, dtype=np.int32)
    if count > 2 * GROUP * k:
        scores = _padded(xp, scores, GROUP, np.float32(-np.inf))
        maxima = scores.reshape(batch, -1, GROUP).max(axis=2)
        _, groups = _rounds(xp, maxima, xp.arange(maxima.shape[1], dtype=np.int32), k)
        places = (_ascending(xp, groups)[:, :, None] * GROUP + xp.arange(GROUP, dtype=np.int32)).reshape(batch, -1)
        scores = xp.take_along_axis(scores, places, axis=1)
    return _rounds(xp, scores, places, k)


def _rounds(xp: Any, scores: Any, places: Any, k: int) -> tuple[Any, Any]:
    """The `k` best of scores [B, N] and their places [N] or [B, N], by rounds in which each slab keeps as many."""
    batch, slab = len(scores), max(LEAST_SLAB, FEWER << (k - 1).bit_length())
    places = xp.broadcast_to(places, scores.shape)
    while scores.shape[1] > slab:
        scores = _padded(xp, scores, slab, np.float32(-np.inf)).reshape(-1, slab)
        places = _padded(xp, places, slab, np.int32(-1)).reshape(-1, slab)
        scores, places = (array.reshape(batch, -1) for array in _taken(xp, scores, places, k))
    return _taken(xp, scores, places, k)


def _padded(xp: Any, array: Any, multiple: int, filler: Any) -> Any:
    """`array` [B, N], behind which `filler` makes N a multiple."""
    missing = len(array), -array.shape[1] % multiple
    return xp.concatenate([array, xp.full(missing, filler, array.dtype)], axis=1) if missing[1] else array


def _taken(xp: Any, scores: Any, rows: Any, k: int) -> tuple[Any, Any]:
    """The `k` best of scores [B, N] and their rows; -inf and -1 where there are fewer."""
    places = top_k(scores, k)
    taken = xp.maximum(places, 0)
    scores = xp.where(places >= 0, xp.take_along_axis(scores, taken, axis=1), np.float32(-np.inf))
    return scores, xp.where(places >= 0, xp.take_along_axis(rows, taken, axis=1), np.int32(-1))


def _ascending(xp: Any, rows: Any) -> Any:
    """`rows` [B, N] in order, beyond 16 million nearly so: a sort of CuPy's would have us wait."""
    return _taken(xp, -rows.astype(np.float32), rows, rows.shape[1])[1]


def _widened(bits: Any, rows: int) -> Any:
    """A bitmap of as many words as the table has."""
    wide = np.zeros(-(-rows // WORD) * (WORD // 8), np.uint8)
    wide[: len(bits)] = bits
    return wide
