"""The student's input on the CPU (Numba): gathers, multiplies, standardises, rounds and sums in one pass over the rows.

Shapes and types are checked by `shortlist.kernels.fuse_features`; what is compiled is in `tiles`, equal to `reference`
bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from shortlist.kernels.fuse_features import tiles
from shortlist.kernels.fuse_features.columns import Columns
from shortlist.kernels.selection import in_threads

ITEMS = {"int8": types.int8, "float16": types.uint16, "float32": types.float32}
FEATURES = {"uint8": types.uint8, **ITEMS}
TYPES = frozenset(np.dtype(name) for name in ITEMS)
HALF = np.dtype(np.float16)


def fuse_features(
    items: NDArray[Any],
    rows: NDArray[np.int32],
    users: NDArray[np.float32],
    channels: NDArray[np.float32],
    side: NDArray[np.float32],
    columns: Columns,
    out: tuple[NDArray[Any], NDArray[np.float32]],
    threads: int,
) -> None:
    """`shortlist.kernels.fuse_features` for NumPy arrays of checked shapes and types, into `out`.

    Raises IndexError for a row outside the table.
    """
    features, linear = out
    fuse = compiled(items.dtype, features.dtype)
    if items.dtype == HALF:
        items = items.view(np.uint16)
    if features.dtype == HALF:
        features = features.view(np.uint16)
    request = tuple(np.ascontiguousarray(array) for array in (rows, users, channels, side))
    numbers = (columns.bias, columns.low, columns.high, columns.zero)
    constants = (columns.multiplier, columns.offset, columns.weight, *numbers)

    def run(first: int, last: int) -> bool:
        done: bool = fuse(items, *request, *constants, first, last, features, linear)
        return done

    if not in_threads(run, len(rows), threads):
        b, n = np.argwhere((rows < -1) | (rows >= len(items)))[0]
        raise IndexError(f"rows[{b}, {n}] = {rows[b, n]}: -1 to {len(items) - 1} is allowed")


def warm_up(item_types: tuple[str, ...] = tuple(ITEMS), feature_type: str = "uint8") -> None:
    """Compile for tables of `item_types` and features of `feature_type`, whatever their shapes and layout."""
    for name in item_types:
        compiled(np.dtype(name), np.dtype(feature_type))


@cache
def compiled(items: np.dtype[Any], features: np.dtype[Any]) -> Callable[..., bool]:
    """`tiles.fuse` for two element types, which never compiles again: read-only arrays and others alike."""
    table = types.Array(ITEMS[items.name], 2, "A", readonly=True)
    rows = types.Array(types.int32, 2, "C", readonly=True)
    matrix, cube = (types.Array(types.float32, n, "C", readonly=True) for n in (2, 3))
    constants = (*(types.Array(types.float32, 1, "C", readonly=True),) * 3, *(types.float64,) * 4)
    out = (types.Array(FEATURES[features.name], 3, "C"), types.Array(types.float32, 2, "C"))
    dispatcher = njit(nogil=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")(tiles.fuse)
    dispatcher.compile((table, rows, matrix, cube, matrix, *constants, types.intp, types.intp, *out))
    dispatcher.disable_compile()
    fuse: Callable[..., bool] = dispatcher
    return fuse
