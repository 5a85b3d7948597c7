"""Scores of proposed items: a user's inner product with each, plus what the item already scores.

    tower, total = score_pool(vectors, rows, users, linear)

For the device that holds the arrays: one kernel on a GPU, plain NumPy elsewhere. The CPU's own retrieval scores in its
loop (`shortlist.stages.retrieve`) and does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shortlist.kernels.arrays import is_cupy
from shortlist.kernels.score_pool.reference import score_pool_reference

__all__ = ["score_pool"]


def score_pool(vectors: Any, rows: Any, users: Any, linear: Any) -> tuple[Any, Any]:
    """The inner products `tower` and the sums `total` with `linear`, float32 [B, N] both.

    vectors float32 [M, D], a row's columns side by side; rows int32 [B, N] of them; users float32 [B, D]; linear
    float32 [B, N]. A row outside of the table is missing: 0 and -inf. A total that is not finite is -inf.
    Raises TypeError and ValueError for types and shapes that do not fit, naming the argument.
    """
    _check(vectors, rows, users, linear)
    if not is_cupy(vectors):
        return score_pool_reference(vectors, rows, users, linear)
    from shortlist.kernels.score_pool import gpu

    return gpu.score_pool(vectors, rows, users, linear)


def _check(vectors: Any, rows: Any, users: Any, linear: Any) -> None:
    if vectors.ndim != 2 or vectors.shape[1] < 1 or (vectors.shape[1] > 1 and vectors.strides[1] != 4):
        raise ValueError(
            f"vectors: shape is {vectors.shape}, strides {vectors.strides}; [M, D] with columns side by side is allowed"
        )
    if rows.ndim != 2:
        raise ValueError(f"rows: shape is {rows.shape}; [B, N] is allowed")
    wanted = {"rows": (rows, "int32", rows.shape), "users": (users, "float32", (len(rows), vectors.shape[1]))}
    wanted |= {"vectors": (vectors, "float32", vectors.shape), "linear": (linear, "float32", rows.shape)}
    for name, (array, dtype, shape) in wanted.items():
        if array.dtype != np.dtype(dtype):
            raise TypeError(f"{name}: dtype is {array.dtype}; {dtype} is allowed")
        if array.shape != shape:
            raise ValueError(f"{name}: shape is {array.shape}; {shape} is allowed")
        if is_cupy(array) != is_cupy(vectors):
            raise TypeError(f"{name}: is not on the device of the vectors")
