"""Sets of catalogue rows as packed bits: one bit a row, lowest bit first, as FAISS's selectors read them.

Bitmaps are whole words of 64 bits; those beyond the last row are zero. What a set means is for others to say.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.types import Bitmap, Bool, Int32, Int64

WORD = 64


def width(items: int) -> int:
    """Bytes of a bitmap of `items` rows."""
    return -(-items // WORD) * (WORD // 8)


def everything(items: int) -> Bitmap:
    """All of `items` rows."""
    bits = np.zeros(width(items), np.uint8)
    bits[: items // 8] = 0xFF
    if items % 8:
        bits[items // 8] = (1 << items % 8) - 1
    return bits


def of_rows(rows: Int32, items: int) -> Bitmap:
    """The set of `rows`, each from 0 to `items` - 1."""
    bits = np.zeros(width(items), np.uint8)
    add(bits, rows)
    return bits


def rows_of(bits: Bitmap, count: int) -> Int64:
    """The first `count` rows, ascending; fewer where there are no more."""
    rows: Int64 = _list(bits.view(np.uint64), count)
    return rows


def count(bits: Bitmap) -> int:
    """How many rows there are."""
    found: int = _count(bits.view(np.uint64))
    return found


@njit(nogil=True, no_cfunc_wrapper=True)
def add(bits: Bitmap, rows: Int32) -> None:
    """Put `rows` into the set."""
    for row in rows:
        bits[np.uint32(row) >> np.uint32(3)] |= np.uint8(1 << (row & 7))


@njit(nogil=True, no_cfunc_wrapper=True)
def drop(bits: Bitmap, rows: Int32) -> None:
    """Take `rows` out of the set."""
    for row in rows:
        bits[np.uint32(row) >> np.uint32(3)] &= np.uint8(255 ^ (1 << (row & 7)))


@njit(nogil=True, no_cfunc_wrapper=True)
def contains(bits: Bitmap, rows: Int32) -> Bool:
    """Whether each of `rows` is in the set; rows beyond it are not: new items may join while a batch runs."""
    found = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        byte = np.uint32(rows[i]) >> np.uint32(3)
        if byte < np.uint32(len(bits)):
            found[i] = bits[byte] >> np.uint8(rows[i] & 7) & 1
    return found


@njit(nogil=True, no_cfunc_wrapper=True)
def _count(words: NDArray[np.uint64]) -> int:
    total = np.uint64(0)
    for word in words:
        pairs = word - (word >> np.uint64(1) & np.uint64(0x5555555555555555))
        fours = (pairs & np.uint64(0x3333333333333333)) + (pairs >> np.uint64(2) & np.uint64(0x3333333333333333))
        eights = fours + (fours >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
        total += eights * np.uint64(0x0101010101010101) >> np.uint64(56)
    return int(total)


@njit(nogil=True, no_cfunc_wrapper=True)
def _list(words: NDArray[np.uint64], most: int) -> Int64:
    rows = np.empty(most, np.int64)
    found = 0
    for place in range(len(words)):
        word = words[place]
        row = place * WORD
        while word and found < most:
            if word & np.uint64(1):
                rows[found] = row
                found += 1
            word >>= np.uint64(1)
            row += 1
    return rows[:found]
