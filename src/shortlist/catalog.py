"""The item table and the map between the caller's ids and our rows.

Both are plain memory-mapped arrays, so that every server process shares one copy. `IdMap` serves users as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.bundle import Bundle
from shortlist.devices import Device
from shortlist.kernels.arrays import is_cupy
from shortlist.kernels.fuse_features.encoding import prefetch
from shortlist.room import RoomyBundle
from shortlist.types import Float32, Int32, Int64

Bytes = NDArray[np.uint8]

AHEAD, LINE = 8, 64  # rows asked of memory before they are needed, bytes of a cache line


@dataclass(frozen=True)
class IdMap:
    """id -> row by an open-addressing hash table (FNV-1a, linear probing); row -> id by offsets into one blob."""

    blob: Bytes  # [T] all ids, one after the other
    offsets: Int64  # [N + 1]
    slots: Int32  # [2^p], at most half full; -1 is empty

    @classmethod
    def build(cls, ids: Sequence[str]) -> IdMap:
        """Index `ids`, whose positions become the rows. Raises ValueError when one stands twice."""
        return cls.index(*_join([i.encode() for i in ids]))

    @classmethod
    def index(cls, blob: Bytes, offsets: Int64) -> IdMap:
        """Index ids that lie one after the other in `blob` [T], the i-th from `offsets[i]` to `offsets[i + 1]`.

        Raises ValueError when one stands twice.
        """
        slots = np.full(1 << max(4, (2 * (len(offsets) - 1)).bit_length()), -1, np.int32)
        twin = _insert_all(blob, offsets, slots)
        if twin >= 0:
            raise ValueError(f"id {blob[offsets[twin] : offsets[twin + 1]].tobytes().decode()!r} stands twice")
        return cls(blob, offsets, slots)

    @classmethod
    def load(cls, bundle: Bundle, prefix: str) -> IdMap:
        """Memory-map the map written as `<prefix>_ids`, `<prefix>_offsets`, `<prefix>_slots`."""
        return cls(*(bundle.array(f"{prefix}_{part}") for part in ("ids", "offsets", "slots")))

    def arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """The arrays to write into a bundle under `prefix`."""
        return {f"{prefix}_ids": self.blob, f"{prefix}_offsets": self.offsets, f"{prefix}_slots": self.slots}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, ids: Sequence[bytes]) -> Int32:
        """Rows of `ids`, -1 where unknown: Int32[len(ids)]."""
        if not ids:
            return np.empty(0, np.int32)
        rows: Int32 = _find_all(*_join(ids), self.blob, self.offsets, self.slots)
        return rows

    def all_rows(self, rows: Int32) -> Int32:
        """`rows`, and those that the same items had before: here an item has one."""
        return rows

    def id(self, row: int) -> bytes:
        """The caller's id of `row`."""
        return self.blob[self.offsets.item(row) : self.offsets.item(row + 1)].tobytes()


@dataclass(frozen=True)
class GrowingIds:
    """An IdMap that takes further ids, whose rows are given. An id that it knows already gets another row."""

    known: IdMap
    new_rows: dict[bytes, int] = field(default_factory=dict)
    new_ids: dict[int, bytes] = field(default_factory=dict)
    before: dict[int, list[int]] = field(default_factory=dict)  # by row of an item that had others: one list for all

    def __len__(self) -> int:
        return len(self.known)

    def add(self, item_id: bytes, row: int) -> None:
        """From now on, `item_id` is `row`; rows that it had before keep its name."""
        self.new_ids[row] = item_id
        if (last := self.new_rows.get(item_id)) is not None:
            self.before[row] = self.before.get(last, [])
            self.before[row].append(last)
        self.new_rows[item_id] = row  # at last: who sees it sees the rest

    def rows(self, ids: Sequence[bytes]) -> Int32:
        """Rows of `ids`, -1 where unknown: Int32[len(ids)]."""
        rows = self.known.rows(ids)
        if self.new_rows:
            for place in np.flatnonzero(rows < 0).tolist():
                rows[place] = self.new_rows.get(ids[place], -1)
        return rows

    def all_rows(self, rows: Int32) -> Int32:
        """`rows`, and those that the same items had before, one of which may still be on offer."""
        if not self.before:
            return rows
        others = (self.before[row] for row in rows.tolist() if row in self.before)
        return np.concatenate([rows, *(np.array(own, np.int32) for own in others)])

    def id(self, row: int) -> bytes:
        """The caller's id of `row`."""
        return self.known.id(row) if row < len(self.known) else self.new_ids[row]


@dataclass(frozen=True)
class Catalog:
    """The item table [N, W]: what retrieval, ranker and filter know of an item, one row each.

    `columns` names the ranges of the table; ranges may coincide (tied history and retrieval vectors). Where the table
    has room for new items (`shortlist.room`), its length counts the room, and that of the catalogue does not.
    """

    ids: IdMap | GrowingIds
    table: Float32  # [N, W]
    columns: dict[str, tuple[int, int]]  # retrieval, history, ranker, features

    @classmethod
    def load(cls, bundle: Bundle, device: Device | None = None) -> Catalog:
        """The bundle's catalogue: ids memory-mapped, the table too unless a `device` keeps it."""
        layout = bundle.document("layout")
        columns = {name: (int(start), int(stop)) for name, (start, stop) in layout.items()}
        table, ids = bundle.array("table"), IdMap.load(bundle, "item")
        all_ids = GrowingIds(ids) if isinstance(bundle, RoomyBundle) else ids
        return cls(all_ids, device.keep(table) if device else table, columns)

    def __len__(self) -> int:
        return len(self.ids)

    def width(self, name: str) -> int:
        """Number of columns called `name`."""
        start, stop = self.columns[name]
        return stop - start

    def part(self, name: str) -> Float32:
        """A view of the columns called `name`: [N, width]."""
        start, stop = self.columns[name]
        return self.table[:, start:stop]

    def gather(self, rows: Int32, name: str) -> Float32:
        """Columns `name` of `rows` [...]: [..., width]; zeros where a row is -1."""
        part = self.part(name)
        if is_cupy(part):  # a mask would be counted there, and the host wait for the answer
            return np.where((rows >= 0)[..., None], part[np.maximum(rows, 0)], np.float32(0))
        gathered: Float32 = np.empty((*rows.shape, part.shape[1]), np.float32)
        _gather(part, rows.ravel(), gathered.reshape(rows.size, part.shape[1]))
        return gathered


def build_table(parts: dict[str, Float32]) -> tuple[Float32, dict[str, list[int]]]:
    """Lay item arrays side by side: the table [N, W] and its layout. Equal arrays (by identity) share columns."""
    layout: dict[str, list[int]] = {}
    laid: dict[int, list[int]] = {}
    columns: list[Float32] = []
    width = 0
    for name, part in parts.items():
        if id(part) not in laid:
            laid[id(part)] = [width, width + part.shape[1]]
            columns.append(part)
            width += part.shape[1]
        layout[name] = laid[id(part)]
    return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=np.float32), layout


def _join(ids: Sequence[bytes]) -> tuple[Bytes, Int64]:
    offsets = np.fromiter(accumulate(map(len, ids), initial=0), np.int64, len(ids) + 1)
    return np.frombuffer(b"".join(ids), np.uint8), offsets


@njit(nogil=True, no_cfunc_wrapper=True)
def _gather(table: Float32, rows: Int32, out: Float32) -> None:
    """Rows of `table` [N, W], zeros where one is -1, into `out` [M, W]; each is asked of memory before it is needed."""
    if len(rows) and max(rows) >= len(table):
        raise IndexError("a row is not in the item table")
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            for byte in range(0, 4 * table.shape[1], LINE):
                prefetch(table, max(rows[i + AHEAD], 0), byte)
        for column in range(table.shape[1]):
            out[i, column] = table[rows[i], column] if rows[i] >= 0 else np.float32(0)


@njit(nogil=True, no_cfunc_wrapper=True)
def _hash(blob: Bytes, start: int, stop: int) -> np.uint64:
    value = np.uint64(14695981039346656037)
    for i in range(start, stop):
        value = (value ^ np.uint64(blob[i])) * np.uint64(1099511628211)
    return value ^ (value >> np.uint64(29))


@njit(nogil=True, no_cfunc_wrapper=True)
def _find(slot: np.uint64, ids: Bytes, start: int, stop: int, blob: Bytes, offsets: Int64, slots: Int32) -> np.uint64:
    """Slot that holds the id, or the empty slot where it belongs; `slot` is where its hash says to begin."""
    mask = np.uint64(len(slots) - 1)
    while slots[slot] >= 0:
        low, high = offsets[slots[slot]], offsets[slots[slot] + 1]
        same = high - low == stop - start
        for i in range(stop - start):
            if not same:
                break
            same = ids[start + i] == blob[low + i]
        if same:
            return slot
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(nogil=True, no_cfunc_wrapper=True)
def _insert_all(blob: Bytes, offsets: Int64, slots: Int32) -> int:
    for row in range(len(offsets) - 1):
        slot = _hash(blob, offsets[row], offsets[row + 1]) & np.uint64(len(slots) - 1)
        slot = _find(slot, blob, offsets[row], offsets[row + 1], blob, offsets, slots)
        if slots[slot] >= 0:
            return row
        slots[slot] = row
    return -1


@njit(nogil=True, no_cfunc_wrapper=True)
def _find_all(ids: Bytes, starts: Int64, blob: Bytes, offsets: Int64, slots: Int32) -> Int32:
    """Rows of the ids. Each step is taken for all of them before the next, and asks memory for what that will read."""
    rows, places = np.empty(len(starts) - 1, np.int32), np.empty(len(starts) - 1, np.uint64)
    for i in range(len(rows)):
        places[i] = _hash(ids, starts[i], starts[i + 1]) & np.uint64(len(slots) - 1)
        prefetch(slots, places[i], 0)
    for place in places:
        prefetch(offsets, max(slots[place], 0), 0)
    for place in places:
        prefetch(blob, offsets[max(slots[place], 0)], 0)
    for i in range(len(rows)):
        rows[i] = slots[_find(places[i], ids, starts[i], starts[i + 1], blob, offsets, slots)]
    return rows
