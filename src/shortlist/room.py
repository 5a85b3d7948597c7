"""A bundle opened with room for items that it does not know: its item tables go on, empty, where their files end.

Stages see tables that are longer, and are none the wiser. The rows of the bundle stay memory-mapped and shared by all
processes; room takes memory as it is filled, and each process fills its own. What is put there, and when it may be
looked at, is for `shortlist.stages.assortment` to say.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist import bitmap
from shortlist.bundle import Bundle

BY_ITEM = ("table", "filter_items", "diversity_items", "item_groups", "popularity_everyone")
_NEIGHBOURS = "_indptr"  # ends the names of arrays that say where the neighbours of each item begin, and their end
_FIXED, _NO_RESERVE = 0x10, 0x4000  # of Linux, which Python's mmap does not name
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class RoomyBundle(Bundle):
    """A Bundle whose item tables have rows for `room` more items, from `first` on; so many of them are free.

    `first` lies on a word of bitmaps, so there may be a few rows before it that nobody uses.
    """

    room: int = 0

    @classmethod
    def with_room(cls, path: Path, verify: bool, room: int) -> RoomyBundle:
        """Open the bundle at `path`, as `Bundle.open` does."""
        bundle = cls.open(path, verify)
        assert isinstance(bundle, cls)
        bundle.room = room
        return bundle

    @property
    def items(self) -> int:
        """How many items the bundle knows."""
        return len(super().array("item_offsets")) - 1

    @property
    def first(self) -> int:
        """The row of the first new item."""
        return -(-self.items // bitmap.WORD) * bitmap.WORD

    def array(self, name: str) -> NDArray[Any]:
        """As `Bundle.array`; item tables have their room."""
        return self._opened(name)[0] if self._by_item(name) else super().array(name)

    def new_rows(self, name: str) -> NDArray[Any]:
        """The room of an item table, to be written to."""
        return self._opened(name)[1]

    def _by_item(self, name: str) -> bool:
        return self.room > 0 and (name in BY_ITEM or name.endswith(_NEIGHBOURS))

    def _opened(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The whole table, read-only, and its room."""
        opened: dict[str, tuple[NDArray[Any], NDArray[Any]]] = self.__dict__.setdefault("_tables", {})
        if name not in opened:
            rows = self.first + self.room + name.endswith(_NEIGHBOURS)
            table, known = map_with_room(self.file(f"{name}.npy"), rows)
            if name.endswith(_NEIGHBOURS):
                table[known:] = table[known - 1]  # new items have no neighbours
            whole = table.view()
            whole.flags.writeable = False
            opened[name] = whole, table[self.first :]
        return opened[name]


def map_with_room(path: Path, rows: int) -> tuple[NDArray[Any], int]:
    """The array in a file of NumPy's, continued by zeros to `rows` rows, and how many rows the file has.

    What is written stays in this process. Raises OSError when there is no memory to be had.
    """
    known = np.load(path, mmap_mode="r", allow_pickle=False)
    if not known.flags.c_contiguous or rows < len(known):
        raise ValueError(f"{path}: {known.shape} in C order cannot be continued to {rows} rows")
    length, size = known.offset + known.nbytes, known.offset + rows * known[:1].nbytes
    protection, private = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _NO_RESERVE
    start = _mapped(None, size, protection, private | mmap.MAP_ANONYMOUS, -1)
    memory = (ctypes.c_char * size).from_address(start)
    weakref.finalize(memory, _libc.munmap, start, size).atexit = False  # threads may read until the process is gone
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != length:  # a larger one would be laid over the memory of others
            raise ValueError(f"{path}: has been replaced while it was read, or is damaged")
        _mapped(start, length, protection, private | _FIXED, file.fileno())
    table = np.frombuffer(memory, known.dtype, rows * known[:1].size, known.offset)
    return table.reshape(rows, *known.shape[1:]), len(known)


def _mapped(start: int | None, size: int, protection: int, flags: int, file: int) -> int:
    found = _libc.mmap(start, size, protection, flags, file, 0)
    if found in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)
