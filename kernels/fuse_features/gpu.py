"""The student's input on the GPU: launches fuse_features.cu, and raises for rows that it refused.

Shapes and types are checked before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.fuse_features.columns import Columns
from shortlist.kernels.gpu import ITEM_TYPES, NOTHING, kernel, load_width, new_refused

SOURCE = Path(__file__).parent / "fuse_features.cu"
FEATURE_TYPES = {**ITEM_TYPES, "uint8": "unsigned char"}
SHARED = 48 * 1024  # bytes that a block may declare


def fuse_features(
    items: Any,
    rows: Any,
    users: Any,
    channels: Any,
    side: Any,
    columns: Columns,
    *,
    out: Any = None,
    refused: Any = None,
) -> tuple[Any, Any]:
    """`shortlist.kernels.fuse_features` for CuPy arrays; those of `columns` too are CuPy's. Items must be contiguous.

    With `refused` (CuPy int32 [1], filled with 2³¹ - 1) nothing waits for the GPU and nothing is raised: it gets the
    lowest flat index of a row that was refused; such rows come out as missing ones. So it suits CUDA graphs.
    """
    if not items.flags.c_contiguous:
        raise ValueError(f"items: strides are {items.strides}; contiguous is allowed on the GPU")
    (batch, count), table = rows.shape, len(items)
    features, linear = _new(batch, count, columns) if out is None else out
    if batch * count >= NOTHING:
        raise ValueError(f"rows: shape is {rows.shape}; fewer than {NOTHING} elements are allowed on the GPU")
    if batch * count == 0:
        return features, linear
    rows, users, channels, side = (import_cupy().ascontiguousarray(array) for array in (rows, users, channels, side))
    seen = new_refused(1) if refused is None else refused
    widths = (users.shape[1], items.shape[1], channels.shape[2], side.shape[1])
    constants = plan(items.dtype.name, columns.dtype, *widths, load_width(items))
    tile = int(constants["TILE"])
    given = (items, np.int32(table), rows, np.int32(count), users, channels, side)
    arrays = (columns.multiplier, columns.offset, columns.weight)
    numbers = (np.float32(number) for number in (columns.bias, columns.low, columns.high, columns.zero))
    launch = kernel(SOURCE, "fuse_features", **constants)
    launch((batch, -(-count // tile)), (4 * tile,), (*given, *arrays, *numbers, features, linear, seen))
    if refused is None and (first := int(seen.get()[0])) != NOTHING:
        b, n = divmod(first, count)
        raise IndexError(f"rows[{b}, {n}] = {int(rows[b, n])}: -1 to {table - 1} is allowed")
    return features, linear


def plan(
    item_type: str, feature_type: str, dim: int, width: int, channels: int, side: int, load: int
) -> dict[str, int | str]:
    """The constants to compile with: D, W, C and S columns, rows that allow loads of `load` columns.

    The tile is as large as shared memory allows, up to 32 candidates. Raises ValueError where 8 are too many.
    """
    total = width + channels + side
    candidate = total * np.dtype(feature_type).itemsize
    request = 12 * (width + channels + 4) + 4 * (side + 1) + 64  # at most
    fitting = [tile for tile in (32, 16, 8) if tile * candidate + request <= SHARED]
    if not fitting:
        raise ValueError(f"{total} columns of {feature_type}: 8 candidates exceed {SHARED} bytes of shared memory")
    return {
        "ITEM": ITEM_TYPES[item_type],
        "FEATURE": FEATURE_TYPES[feature_type],
        "USER_WIDTH": dim,
        "ITEM_WIDTH": width,
        "CHANNELS": channels,
        "SIDE": side,
        "TILE": fitting[0],
        "VECTOR": int(load >= 4),
    }


def _new(batch: int, count: int, columns: Columns) -> tuple[Any, Any]:
    cupy = import_cupy()
    features = cupy.empty((batch, count, len(columns.multiplier)), columns.dtype)
    return features, cupy.empty((batch, count), np.float32)
