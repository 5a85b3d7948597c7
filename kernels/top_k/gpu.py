"""Top K on the GPU: launches top_k.cu. Shapes and types are checked before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.gpu import kernel

SOURCE = Path(__file__).parent / "top_k.cu"
CAPACITIES = (512, 1024, 2048, 4096, 8192)  # of one block's shared memory, in values
THREADS = 512


def top_k(values: Any, k: int, out: Any = None) -> Any:
    """`shortlist.kernels.top_k` for CuPy arrays, N up to 8,192 (ValueError). Waits for nothing."""
    cupy = import_cupy()
    batch, count = values.shape
    if count > CAPACITIES[-1]:
        raise ValueError(f"values: shape is {values.shape}; [B, N] with N up to {CAPACITIES[-1]} is allowed on the GPU")
    best = cupy.empty((batch, k), np.int32) if out is None else out
    if batch * count == 0:
        best.fill(-1)
        return best
    if values.strides[1] != values.itemsize:
        values = cupy.ascontiguousarray(values)
    constants = plan(count)
    stride = np.int64(values.strides[0] // values.itemsize)
    grid = (batch, -(-count // constants["SLICE"]))
    launch = kernel(SOURCE, "top_k", **constants)
    launch(grid, (THREADS,), (values, stride, np.int32(count), np.int32(k), best))
    return best


def plan(count: int) -> dict[str, int]:
    """The constants to compile with for N values: large N take larger slices, since each block loads all N."""
    capacity = next(capacity for capacity in CAPACITIES if count <= capacity)
    parts = 8 if capacity <= 2048 else 4
    return {"CAPACITY": capacity, "PARTS": parts, "SLICE": THREADS // parts}
