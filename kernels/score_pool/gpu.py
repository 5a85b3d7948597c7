"""Scores of proposed items on the GPU: launches score_pool.cu. Shapes and types are checked before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.gpu import kernel
from shortlist.kernels.numerics import LANES

SOURCE = Path(__file__).parent / "score_pool.cu"
THREADS = 256


def score_pool(vectors: Any, rows: Any, users: Any, linear: Any) -> tuple[Any, Any]:
    """`shortlist.kernels.score_pool` for CuPy arrays. Waits for nothing."""
    cupy = import_cupy()
    rows, users, linear = (cupy.ascontiguousarray(array) for array in (rows, users, linear))
    (batch, count), (items, dim) = rows.shape, vectors.shape
    tower, total = cupy.empty((batch, count), np.float32), cupy.empty((batch, count), np.float32)
    if batch * count == 0:
        return tower, total
    constants = plan(dim, min(load_width(vectors), load_width(users)))
    grid = (batch, -(-count * LANES // (constants["WIDTH"] * THREADS)))
    stride = np.int64(vectors.strides[0] // vectors.itemsize)
    table = (vectors, np.int32(items), stride, rows, np.int32(count))
    kernel(SOURCE, "score_pool", **constants)(grid, (THREADS,), (*table, users, linear, tower, total))
    return tower, total


def plan(dim: int, load: int) -> dict[str, int]:
    """The constants to compile with, for rows of `dim` columns that allow loads of `load`."""
    return {"DIM": dim, "WIDTH": load, "THREADS": THREADS}


def load_width(array: Any) -> int:
    """How many neighbouring columns of `array` [M, D] one load may take, whose rows may lie apart: 4, 2 or 1."""
    width = 4
    while array.shape[1] % width or array.data.ptr % (4 * width) or array.strides[0] % (4 * width):
        width //= 2
    return width
