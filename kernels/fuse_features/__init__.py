"""The student's input in one pass: item rows times user vectors, channels, side, standardised, rounded and summed.

    features, linear = fuse_features(items, rows, users, channels, side, columns)

Arrays are NumPy's, CuPy's or anything with DLPack; the items' device does the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shortlist.kernels.arrays import adopt, check_apart, give_back, is_cupy
from shortlist.kernels.fuse_features import cpu
from shortlist.kernels.fuse_features.columns import Columns, make_columns
from shortlist.kernels.fuse_features.cpu import warm_up
from shortlist.kernels.fuse_features.tiles import WIDEST

__all__ = ["Columns", "fuse_features", "make_columns", "warm_up"]

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int32)
DIMENSIONS = (2, 2, 2, 3, 2)  # of items, rows, users, channels and side


def fuse_features(
    items: Any,
    rows: Any,
    users: Any,
    channels: Any,
    side: Any,
    columns: Columns,
    *,
    out: tuple[Any, Any] | None = None,
    threads: int = 1,
) -> tuple[Any, Any]:
    """The filter's input and its linear part: (features [B, N, G] of columns.dtype, linear float32 [B, N]).

    items int8, float16 or float32 [M, W]: the table, whose `rows` int32 [B, N] are gathered; -1 is a missing candidate:
    nothing is read, its features hold `columns.zero`, its linear part is -inf. users float32 [B, D], D <= W, multiply
    the first D columns; channels float32 [B, N, C]; side float32 [B, S]; G = W + C + S. What happens to each column is
    said by `Columns`. `out` is a pair of contiguous arrays to fill, and nothing else is allocated where the
    request's arrays are contiguous; `threads` split the requests, on the CPU only.

    Raises IndexError for a row outside the table, before anything of the table is read; TypeError and ValueError for
    types and shapes that do not fit, naming the argument.
    """
    given = items
    if not _fit(items, rows, users, channels, side, columns):
        items, rows, users, channels, side = (adopt(array) for array in (items, rows, users, channels, side))
        _check(items, rows, users, channels, side, columns)
    total = items.shape[1] + channels.shape[2] + side.shape[1]
    if out is not None:
        _check_array("out[0]", out[0], np.dtype(columns.dtype), (*rows.shape, total))
        _check_array("out[1]", out[1], FLOAT, rows.shape)
        inputs = {"items": items, "rows": rows, "users": users, "channels": channels, "side": side}
        for name, array in zip(("out[0]", "out[1]"), out, strict=True):
            _check_out(name, array, inputs)
    if is_cupy(items):
        from shortlist.kernels.fuse_features import gpu

        features, linear = gpu.fuse_features(items, rows, users, channels, side, columns, out=out)
    else:
        features, linear = out or (np.empty((*rows.shape, total), columns.dtype), np.empty(rows.shape, np.float32))
        cpu.fuse_features(items, rows, users, channels, side, columns, (features, linear), threads)
    return give_back(features, given), give_back(linear, given)


def _fit(items: Any, rows: Any, users: Any, channels: Any, side: Any, columns: Columns) -> bool:
    """Whether these are NumPy arrays that `_check` has nothing to say about: it takes several times as long."""
    constants = columns.multiplier, columns.offset, columns.weight
    if columns.dtype not in cpu.FEATURES:
        return False
    for array in (items, rows, users, channels, side, *constants):
        if type(array) is not np.ndarray:
            return False
    if (items.ndim, rows.ndim, users.ndim, channels.ndim, side.ndim) != DIMENSIONS:
        return False
    (batch, count), (_, width), (users_batch, dim), (side_batch, sides) = (
        rows.shape,
        items.shape,
        users.shape,
        side.shape,
    )
    total = width + channels.shape[2] + sides
    return (
        items.dtype in cpu.TYPES
        and rows.dtype == INT
        and users.dtype == channels.dtype == side.dtype == FLOAT
        and users_batch == side_batch == batch
        and channels.shape[:2] == (batch, count)
        and dim <= width <= WIDEST
        and width >= 1
        and sides <= WIDEST
        and items.strides[1] == items.itemsize
        and all(constant.dtype == FLOAT and constant.shape == (total,) for constant in constants)
    )


def _check(items: Any, rows: Any, users: Any, channels: Any, side: Any, columns: Columns) -> None:
    """Raise where types and shapes do not fit each other."""
    if columns.dtype not in cpu.FEATURES:
        raise TypeError(f"columns: dtype is {columns.dtype!r}; {', '.join(cpu.FEATURES)} is allowed")
    if items.dtype not in cpu.TYPES:
        raise TypeError(f"items: dtype is {items.dtype}; int8, float16 or float32 is allowed")
    if items.ndim != 2 or not 1 <= items.shape[1] <= WIDEST:
        raise ValueError(f"items: shape is {items.shape}; [M, W] with W from 1 to {WIDEST} is allowed")
    if items.shape[1] > 1 and items.strides[1] != items.itemsize:
        raise ValueError(f"items: strides are {items.strides}; the elements of a row must lie side by side")
    named = {"rows": rows, "users": users, "channels": channels, "side": side}
    for (name, array), dimensions in zip(named.items(), DIMENSIONS[1:], strict=True):
        if array.ndim != dimensions:
            raise ValueError(f"{name}: shape is {array.shape}; {dimensions} dimensions are allowed")
        if is_cupy(array) != is_cupy(items):
            raise TypeError(f"{name}: is not on the device of the items")
    batch, dim, sides = len(rows), users.shape[1], side.shape[1]
    if dim > items.shape[1] or sides > WIDEST:
        raise ValueError(f"{dim} user and {sides} side columns; at most {items.shape[1]} (W) and {WIDEST} are allowed")
    total = items.shape[1] + channels.shape[2] + sides
    _check_array("rows", rows, INT, rows.shape)
    _check_array("users", users, FLOAT, (batch, dim))
    _check_array("channels", channels, FLOAT, (*rows.shape, channels.shape[2]))
    _check_array("side", side, FLOAT, (batch, sides))
    for name in ("multiplier", "offset", "weight"):
        _check_array(f"columns.{name}", getattr(columns, name), FLOAT, (total,))


def _check_array(name: str, array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype:
        raise TypeError(f"{name}: dtype is {array.dtype}; {dtype} is allowed")
    if array.shape != shape:
        raise ValueError(f"{name}: shape is {array.shape}; {shape} is allowed")


def _check_out(name: str, array: Any, inputs: dict[str, Any]) -> None:
    """Compiled code takes only contiguous arrays, and would gather by rows that it has overwritten itself."""
    if not array.flags.c_contiguous or (isinstance(array, np.ndarray) and not array.flags.writeable):
        raise ValueError(f"{name}: strides are {array.strides}; a contiguous, writable array is allowed")
    check_apart(name, array, inputs)
