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

from shortlist.types import Eligible, Float32, Int64

_faiss: Any = faiss  # its stubs do not know what its Python layer takes

THINNING = 0.43  # eligible rows to look at shrink with the power of their share, so that recall stays
SPARE = 4  # at least so many are looked at for each one that is wanted
LOOKED_AT, EXACT = 4.0, 30.0  # ns: for a row of a cell that is searched, and to score a row from the item table
ORDERED = 20.0  # ns for each cell of the index, to order them by a query


class Cells:
    """An inverted file, cell by cell. Not thread-safe."""

    def __init__(self, index: Any) -> None:
        """`index` is FAISS's IndexIVF over inner products, set to the number of cells that it searches by default."""
        self._index = index

    def prepare(self, eligible: Eligible) -> bool:
        """Note the cells with eligible rows; False where scoring each of these rows costs less than a search."""
        held = np.bincount(self._members(eligible), minlength=self._index.nlist)
        cells = np.flatnonzero(held)
        eligible.cells = cells, held[cells]
        enough = self._enough(eligible, self._index.nprobe, 0)
        seen = min(1.0, enough / max(1, eligible.count)) * self._sizes[cells].sum()
        if EXACT * eligible.count <= LOOKED_AT * seen + ORDERED * self._index.nlist:
            eligible.cells = None
            return False
        return True

    def search(self, vectors: Float32, k: int, eligible: Eligible, nprobe: int | None = None) -> Int64:
        """The nearest eligible rows [B, k], -1 where there are fewer, as thoroughly as `nprobe` cells are for all."""
        assert eligible.cells is not None
        cells, held = eligible.cells
        enough = self._enough(eligible, nprobe or self._index.nprobe, k)
        chosen = [self._chosen(vector, cells, held, enough) for vector in vectors]
        most = max(len(keys) for keys, _ in chosen)
        keys, scores = np.full((len(vectors), most), -1, np.int64), np.zeros((len(vectors), most), np.float32)
        for b, (own_keys, own_scores) in enumerate(chosen):
            keys[b, : len(own_keys)], scores[b, : len(own_scores)] = own_keys, own_scores
        return self._search(vectors, k, keys, scores, eligible)

    def _enough(self, eligible: Eligible, nprobe: int, wanted: int) -> int:
        """How many eligible rows to look at, so that recall is that of `nprobe` cells without a predicate.

        Where they fill whole cells, the nearest of them are further away, and spread over more.
        """
        assert eligible.cells is not None
        total = self._index.ntotal
        share = eligible.count / total
        density = eligible.count / max(1, self._sizes[eligible.cells[0]].sum())
        looked_at = total * nprobe / self._index.nlist * share**THINNING * (1 + density - share)
        return int(max(looked_at, SPARE * wanted))

    def _chosen(self, vector: Float32, cells: Int64, held: Int64, enough: int) -> tuple[Int64, Float32]:
        """The nearest cells that hold `enough` eligible rows together, and their centroids' scores."""
        scores = (self._centroids @ vector)[cells]
        order = np.argsort(-scores)
        last = int(np.searchsorted(np.cumsum(held[order]), enough)) + 1
        return cells[order[:last]], scores[order[:last]]

    def _search(self, vectors: Float32, k: int, keys: Int64, scores: Float32, eligible: Eligible) -> Int64:
        vectors = np.ascontiguousarray(vectors, np.float32)
        found, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        selector = _faiss.IDSelectorBitmap(eligible.bits)  # FAISS reads the bitmap, which the caller holds
        options = _faiss.SearchParametersIVF(sel=selector, nprobe=keys.shape[1])
        given, *arrays = map(_faiss.swig_ptr, (vectors, keys, scores, found, rows))
        # SWIG's own method: the wrapper for Python takes no options
        self._index.search_preassigned_c(len(vectors), given, k, *arrays, False, options)
        return rows

    def _members(self, eligible: Eligible) -> NDArray[np.unsignedinteger[Any]]:
        """The cell of every eligible row."""
        members: NDArray[np.unsignedinteger[Any]] = _picked(
            self._cell_of, eligible.bits.view(np.uint64), eligible.count
        )
        return members

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
