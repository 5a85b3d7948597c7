"""The search of an inverted file among eligible rows alone: which cells to look into, and for how long.

FAISS's own order of cells does not know where eligible rows are: a predicate that goes with the vectors (a language, a
genre) empties most of the nearest cells. So cells without eligible rows are passed over, and each query goes on
through the others until it has seen enough rows that are eligible. The constants come from measurements on a million
items (`shortlist bench eligibility`); none of them decides what is eligible.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist import bitmap
from shortlist.types import Bitmap, Eligible, Float32, Int64

_faiss: Any = faiss  # its stubs do not know what its Python layer takes

THINNING = 0.43  # eligible rows to look at shrink with the power of their share, so that recall stays
SPARE = 4  # at least so many are looked at for each one that is wanted
LOOKED_AT, EXACT = 4.0, 30.0  # ns: for a row of a cell that is searched, and to score a row from the item table
ORDERED = 20.0  # ns for each cell of the index, to order them by a query
BINS = 1024


class Cells:
    """An inverted file, cell by cell. Not thread-safe."""

    def __init__(self, index: Any) -> None:
        """`index` is FAISS's IndexIVF over inner products, set to the number of cells that it searches by default."""
        self._index = index

    def prepare(self, eligible: Eligible) -> bool:
        """Note the cells with eligible rows; False where scoring each of these rows costs less than a search."""
        held = self._held(eligible)
        eligible.cells = held, self._thoroughness(eligible, held)
        enough = self._enough(eligible, self._index.nprobe, 0)
        seen = min(1.0, enough / max(1, eligible.count)) * self._sizes[held > 0].sum()
        if EXACT * eligible.count <= LOOKED_AT * seen + ORDERED * self._index.nlist:
            eligible.cells = None
            return False
        return True

    def search(self, vectors: Float32, k: int, eligible: Eligible, nprobe: int | None = None) -> Int64:
        """The nearest eligible rows [B, k], -1 where there are fewer, as thoroughly as `nprobe` cells are for all."""
        assert eligible.cells is not None
        enough = self._enough(eligible, nprobe or self._index.nprobe, k)
        keys, scores = _nearest_cells(vectors @ self._centroids.T, eligible.cells[0], enough)
        return self._search(vectors, k, keys, scores, eligible)

    def _thoroughness(self, eligible: Eligible, held: Int64) -> float:
        """How many eligible rows to look at for each row that is looked at without a predicate, so that recall is that.

        Where they fill whole cells, the nearest of them are further away, and spread over more.
        """
        share = eligible.count / self._index.ntotal
        density = eligible.count / max(1, self._sizes[held > 0].sum())
        return float(share**THINNING * (1 + density - share))

    def _enough(self, eligible: Eligible, nprobe: int, wanted: int) -> int:
        """How many eligible rows to look at, to be as thorough as `nprobe` cells are without a predicate."""
        assert eligible.cells is not None
        looked_at = self._index.ntotal * nprobe / self._index.nlist * eligible.cells[1]
        return int(max(looked_at, SPARE * wanted))

    def _search(self, vectors: Float32, k: int, keys: Int64, scores: Float32, eligible: Eligible) -> Int64:
        vectors = np.ascontiguousarray(vectors, np.float32)
        found, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        selector = _faiss.IDSelectorBitmap(eligible.bits)  # FAISS reads the bitmap, which the caller holds
        options = _faiss.SearchParametersIVF(sel=selector, nprobe=keys.shape[1])
        given, *arrays = map(_faiss.swig_ptr, (vectors, keys, scores, found, rows))
        # SWIG's own method: the wrapper for Python takes no options
        self._index.search_preassigned_c(len(vectors), given, k, *arrays, False, options)
        return rows

    def _held(self, eligible: Eligible) -> Int64:
        """How many eligible rows each cell holds; counted by the others where they are fewer."""
        total = self._index.ntotal
        bits, others = eligible.bits[: bitmap.width(total)], total - eligible.count
        if eligible.count <= others:
            return self._counts(bits, eligible.count)
        return self._sizes - self._counts(bitmap.everything(total) & ~bits, others)

    def _counts(self, bits: Bitmap, count: int) -> Int64:
        """How many of the `count` rows of `bits` each cell holds."""
        return np.bincount(_picked(self._cell_of, bits.view(np.uint64), count), minlength=self._index.nlist)

    @cached_property
    def _sizes(self) -> Int64:
        lists = self._index.invlists
        return np.array([lists.list_size(cell) for cell in range(self._index.nlist)], np.int64)

    @cached_property
    def _cell_of(self) -> NDArray[np.unsignedinteger[Any]]:
        """[N] the cell of each row: two bytes a row, which every instance has for itself."""
        cell_of: NDArray[np.unsignedinteger[Any]] = np.zeros(
            self._index.ntotal, np.uint16 if self._index.nlist <= 1 << 16 else np.uint32
        )
        for cell, size in enumerate(self._sizes):
            if size:
                cell_of[faiss.rev_swig_ptr(self._index.invlists.get_ids(cell), int(size))] = cell
        return cell_of

    @cached_property
    def _centroids(self) -> Float32:
        centroids: Float32 = self._index.quantizer.reconstruct_n(0, self._index.nlist)
        return centroids


@njit(nogil=True, no_cfunc_wrapper=True)
def _nearest_cells(scores: Float32, held: Int64, enough: int) -> tuple[Int64, Float32]:
    """The cells of largest `scores` [B, cells] that hold `enough` eligible rows together, -1 behind them.

    Returns keys [B, C] and their scores. Cells that hold none are passed over.
    """
    found, counts = np.empty(scores.shape, np.int64), np.empty(len(scores), np.int64)
    for b in range(len(scores)):
        counts[b] = _nearest(scores[b], held, enough, found[b])
    keys = np.full((len(scores), max(1, counts.max())), -1, np.int64)
    kept = np.zeros(keys.shape, np.float32)
    for b in range(len(scores)):
        for i in range(counts[b]):
            keys[b, i], kept[b, i] = found[b, i], scores[b, found[b, i]]
    return keys, kept


@njit(nogil=True, no_cfunc_wrapper=True)
def _nearest(scores: Float32, held: Int64, enough: int, found: Int64) -> int:
    """The same for one query, into `found` [cells]; returns how many.

    Scores fall into BINS, the bins are gone through from the best on: that orders the cells as well as the search
    cares, and takes two passes over them. What is no number is passed over.
    """
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for cell in range(len(scores)):
        if held[cell] and np.isfinite(scores[cell]):
            low, high = min(low, scores[cell]), max(high, scores[cell])
    width = max((high - low) / np.float32(BINS - 1), np.float32(1e-30))
    rows, starts = np.zeros(BINS, np.int64), np.zeros(BINS + 1, np.int64)
    for cell in range(len(scores)):
        if held[cell] and np.isfinite(scores[cell]):
            place = _bin(scores[cell], high, width)
            rows[place] += held[cell]
            starts[place + 1] += 1
    last, seen = 0, rows[0]
    while last < BINS - 1 and seen < enough:
        last += 1
        seen += rows[last]
    for place in range(BINS):
        starts[place + 1] += starts[place]
    count: int = starts[last + 1]
    for cell in range(len(scores)):
        if held[cell] and np.isfinite(scores[cell]):
            place = _bin(scores[cell], high, width)
            if place <= last:
                found[starts[place]] = cell
                starts[place] += 1
    return count


@njit(nogil=True, no_cfunc_wrapper=True)
def _bin(score: float, high: float, width: float) -> int:
    return min(max(int((high - score) / width), 0), BINS - 1)


@njit(nogil=True, no_cfunc_wrapper=True)
def _picked(
    cell_of: NDArray[np.unsignedinteger[Any]], words: NDArray[np.uint64], count: int
) -> NDArray[np.unsignedinteger[Any]]:
    """The cells of the rows whose bits are set."""
    cells = np.empty(count, cell_of.dtype)
    found = 0
    for place in range(len(words)):
        word = words[place]
        row = place * 64
        while word:
            if word & np.uint64(1):
                cells[found] = cell_of[row]
                found += 1
            word >>= np.uint64(1)
            row += 1
    return cells
