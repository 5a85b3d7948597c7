"""The inverted lists of a FAISS fast-scan index as two arrays of a bundle, which all processes map and share.

FAISS itself keeps such lists in each process's own memory: codes in blocks of 32 vectors, one list after the other.
Here every list is its blocks, then its row numbers, both filled up to whole blocks; FAISS's class for lists on disk
reads exactly that.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from shortlist.bundle import Bundle
from shortlist.errors import BundleError
from shortlist.types import Int64

LISTS, SIZES = "index_lists", "index_sizes"  # arrays of the bundle
BLOCK = 32  # vectors whose codes are interleaved
ROW_BYTES = 8


def take_lists(index: Any) -> tuple[dict[str, NDArray[Any]], Int64]:
    """The lists of an IndexIVFPQFastScan as arrays of a bundle; the index is left without them, ready to be written.

    In them, rows are numbered one list after the other. Beside them the row [N] that each was before.
    """
    lists = faiss.downcast_InvertedLists(index.invlists)
    sizes = np.array([lists.list_size(cell) for cell in range(index.nlist)], np.int64)
    codes, starts = _layout(sizes, index.code_size)
    packed, before, ends = np.zeros(starts[-1], np.uint8), np.empty(index.ntotal, np.int64), np.cumsum(sizes)
    for cell in np.flatnonzero(sizes):
        start, rows = starts[cell], starts[cell] + codes[cell]
        packed[start:rows] = faiss.rev_swig_ptr(lists.get_codes(int(cell)), int(codes[cell]))
        numbers = np.arange(ends[cell] - sizes[cell], ends[cell])
        before[numbers] = faiss.rev_swig_ptr(lists.get_ids(int(cell)), int(sizes[cell]))
        packed[rows : rows + ROW_BYTES * sizes[cell]] = numbers.view(np.uint8)
    empty: Any = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.replace_invlists(empty, True)
    empty.this.disown()
    return {LISTS: packed, SIZES: sizes}, before


def map_lists(index: Any, bundle: Bundle) -> None:
    """Give the index of a bundle its lists, memory-mapped. Raises BundleError where they do not fit it."""
    sizes = bundle.array(SIZES)
    path = bundle.file(f"{LISTS}.npy")
    header = np.load(path, mmap_mode="r", allow_pickle=False).offset
    codes, starts = _layout(sizes, index.code_size)
    if len(sizes) != index.nlist or starts[-1] + header != path.stat().st_size or sizes.sum() != index.ntotal:
        raise BundleError(f"{path}: holds other lists than index.faiss asks for; train again")
    mapped: Any = faiss.OnDiskInvertedLists()
    mapped.nlist, mapped.code_size = index.nlist, index.code_size
    mapped.read_only, mapped.prefetch_nthread = True, 0  # threads would only cost: the pages are in memory
    mapped.filename, mapped.totsize = str(path), path.stat().st_size
    mapped.lists.clear()
    entry = faiss.OnDiskOneList()
    for size, code_bytes, start in zip(sizes.tolist(), codes.tolist(), starts.tolist(), strict=False):
        entry.size, entry.capacity, entry.offset = size, code_bytes // index.code_size, header + start
        mapped.lists.push_back(entry)
    mapped.do_mmap()
    index.replace_invlists(mapped, True)
    mapped.this.disown()


def _layout(sizes: Int64, code_size: int) -> tuple[Int64, Int64]:
    """Bytes of codes of each list, and where each begins, the last being the end."""
    filled = -(-sizes // BLOCK) * BLOCK
    return filled * code_size, np.concatenate([[0], np.cumsum(filled * (code_size + ROW_BYTES))])
