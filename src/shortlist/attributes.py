"""Item attributes that predicates may ask about, as a bundle keeps them: memory-mapped, shared by all processes.

A value that many items have is a bitmap, a rare one a list of rows, whichever is smaller: so a category takes at most
four bytes an item, and one with few values far less. Numbers are a column. How predicates are spelt and combined is
for `shortlist.stages.eligibility`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist import bitmap
from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.types import Bitmap, Bool, Int32, Int64

DOCUMENT = "attributes"  # in a bundle: name and kind of each attribute, in order
LONGEST_LIST = 32  # one item in so many: the row numbers of that many take as much memory as a bitmap


@dataclass(frozen=True)
class Values:
    """Which items have which value. An item may have several values, or none."""

    names: IdMap  # of the values, the most frequent first
    present: Bitmap  # items with any value
    planes: Bitmap  # [P, W] the items of each of the first P values
    offsets: Int64  # [V - P + 1]
    rows: Int32  # [M] the items of the other values

    @classmethod
    def build(cls, items: int, rows: Int64, codes: Int64, names: Sequence[str]) -> Values:
        """From pairs: item `rows[i]` of `items` has the value `names[codes[i]]`. A pair may stand twice."""
        codes, rows = np.divmod(np.unique(codes.astype(np.int64) * items + rows), items)
        counts = np.bincount(codes, minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        lists = [rows[starts[code] : starts[code + 1]].astype(np.int32) for code in order]
        frequent = int((counts > items // LONGEST_LIST).sum())
        planes = np.zeros((frequent, bitmap.width(items)), np.uint8)
        for plane, listed in zip(planes, lists, strict=False):
            bitmap.add(plane, listed)
        rare = lists[frequent:]
        return cls(
            IdMap.build([names[code] for code in order]),
            bitmap.of_rows(rows.astype(np.int32), items),
            planes,
            np.concatenate([[0], np.cumsum([len(listed) for listed in rare])]).astype(np.int64),
            np.concatenate([np.empty(0, np.int32), *rare]),
        )

    @classmethod
    def load(cls, bundle: Bundle, prefix: str) -> Values:
        """Memory-map what `arrays` wrote."""
        parts = (bundle.array(f"{prefix}_{part}") for part in ("present", "planes", "starts", "rows"))
        return cls(IdMap.load(bundle, prefix), *parts)

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays to write into a bundle under `prefix`."""
        parts: dict[str, NDArray[Any]] = {
            "present": self.present,
            "planes": self.planes,
            "starts": self.offsets,
            "rows": self.rows,
        }
        return {**self.names.arrays(prefix), **{f"{prefix}_{name}": part for name, part in parts.items()}}

    def having(self, codes: Collection[float]) -> Bitmap:
        """Items with any of the values whose places among the names are `codes`."""
        found = np.zeros_like(self.present)
        frequent = len(self.planes)
        for code in map(int, codes):
            if code < frequent:
                np.bitwise_or(found, self.planes[code], out=found)
            else:
                place = code - frequent
                bitmap.add(found, self.rows[self.offsets[place] : self.offsets[place + 1]])
        return found


@dataclass(frozen=True)
class Numbers:
    """One number an item, NaN where there is none."""

    column: NDArray[np.floating[Any]]  # [N] float32 where that holds every number exactly, else float64

    @classmethod
    def build(cls, numbers: NDArray[np.float64]) -> Numbers:
        """The column of `numbers` [N]."""
        narrow = numbers.astype(np.float32)
        return cls(narrow if np.array_equal(narrow, numbers, equal_nan=True) else numbers.astype(np.float64))

    @classmethod
    def load(cls, bundle: Bundle, prefix: str) -> Numbers:
        """Memory-map what `arrays` wrote."""
        return cls(bundle.array(f"{prefix}_numbers"))

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays to write into a bundle under `prefix`."""
        return {f"{prefix}_numbers": self.column}

    @property
    def present(self) -> Bitmap:
        """Items with a number."""
        return self.between(-np.inf, np.inf)

    def between(self, low: float, high: float) -> Bitmap:
        """Items with a number from `low` to `high`."""
        return _packed(_between(self.column, low, high))

    def having(self, numbers: Collection[float]) -> Bitmap:
        """Items with any of `numbers`."""
        return _packed(_among(self.column, np.array(sorted(numbers), np.float64)))


Attribute = Values | Numbers
KINDS: Mapping[str, type[Attribute]] = {"values": Values, "numbers": Numbers}


def attribute_parts(attributes: Mapping[str, Attribute]) -> tuple[dict[str, NDArray[Any]], list[dict[str, str]]]:
    """What a bundle keeps of `attributes`: arrays, and the document to write as DOCUMENT."""
    kinds = {kind: name for name, kind in KINDS.items()}
    document = [{"name": name, "kind": kinds[type(attribute)]} for name, attribute in attributes.items()]
    parts = [attribute.arrays(f"attribute{i}") for i, attribute in enumerate(attributes.values())]
    return {name: array for part in parts for name, array in part.items()}, document


def load_attributes(bundle: Bundle) -> dict[str, Attribute]:
    """The attributes of a bundle by name; none where it was trained without."""
    document = bundle.document(DOCUMENT) if bundle.has(f"{DOCUMENT}.json") else []
    return {entry["name"]: KINDS[entry["kind"]].load(bundle, f"attribute{i}") for i, entry in enumerate(document)}


def _packed(chosen: Bool) -> Bitmap:
    bits = np.zeros(bitmap.width(len(chosen)), np.uint8)
    packed = np.packbits(chosen, bitorder="little")
    bits[: len(packed)] = packed
    return bits


@njit(nogil=True, no_cfunc_wrapper=True)
def _between(column: NDArray[np.floating[Any]], low: float, high: float) -> Bool:
    chosen = np.empty(len(column), np.bool_)
    for i in range(len(column)):
        chosen[i] = np.float64(column[i]) >= low and np.float64(column[i]) <= high
    return chosen


@njit(nogil=True, no_cfunc_wrapper=True)
def _among(column: NDArray[np.floating[Any]], numbers: NDArray[np.float64]) -> Bool:
    chosen = np.empty(len(column), np.bool_)
    for i in range(len(column)):
        place = np.searchsorted(numbers, np.float64(column[i]))
        chosen[i] = place < len(numbers) and numbers[place] == column[i]
    return chosen
