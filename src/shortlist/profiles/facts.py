"""What the fold of events needs to know of items: their categories, from a bundle's item attributes.

Profiles depend on it: a replay equals what was live where both had the same bundle's categories.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from shortlist import bitmap
from shortlist.attributes import Values, load_attributes
from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.profiles.state import Facts
from shortlist.types import Int64

CATEGORIES = 8  # of an item at most
_LONGEST = 64  # bytes of a category's name; longer ones are left out
_KEPT = 1 << 16  # items whose answer is kept


def no_facts(item: bytes) -> tuple[bytes, ...]:
    """Nothing is known of any item: profiles have no affinities."""
    return ()


def bundle_facts(path: Path) -> Facts:
    """Categories `attribute:value` of a bundle's items, the most frequent values first. Raises BundleError."""
    bundle = Bundle.open(path)
    items = IdMap.load(bundle, "item")
    names: list[bytes] = []
    pairs = [np.empty((2, 0), np.int64)]  # item's row, place in names
    for attribute, values in load_attributes(bundle).items():
        if isinstance(values, Values):
            pairs.append(_pairs(values, len(items), len(names)))
            names += [f"{attribute}:".encode() + values.names.id(code) for code in range(len(values.names))]
    rows, codes = np.concatenate(pairs, axis=1)
    order = np.argsort(rows, kind="stable")
    starts, codes = np.searchsorted(rows[order], np.arange(len(items) + 1)), codes[order].astype(np.int32)

    @lru_cache(_KEPT)
    def categories_of(item: bytes) -> tuple[bytes, ...]:
        row = int(items.rows([item])[0])
        if row < 0:
            return ()
        listed = (names[code] for code in codes[starts[row] : starts[row + 1]])
        return tuple(name for name in listed if len(name) <= _LONGEST)[:CATEGORIES]

    categories_of(b"")  # compiles what looks ids up, which would otherwise hold up the first event for a second
    return categories_of


def _pairs(values: Values, items: int, first: int) -> Int64:
    """(item's row, value's code) of all that items have, by code, the first of which is `first`: [2, M]."""
    frequent = [bitmap.rows_of(plane, items) for plane in values.planes]
    counts = np.concatenate([[len(rows) for rows in frequent], np.diff(values.offsets)]).astype(np.int64)
    codes = np.repeat(np.arange(first, first + len(counts)), counts)
    return np.stack([np.concatenate([*frequent, values.rows]).astype(np.int64), codes])
