"""Scores of proposed items in plain NumPy: what the GPU must equal bit by bit, and its stand-in where there is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.numerics import lane_dot

Floats = NDArray[np.float32]


def score_pool_reference(
    vectors: Floats, rows: NDArray[np.int32], users: Floats, linear: Floats
) -> tuple[Floats, Floats]:
    """Same contract as `shortlist.kernels.score_pool`, for valid input."""
    there = (rows >= 0) & (rows < len(vectors))
    products = lane_dot(users[:, None], vectors[np.where(there, rows, 0)])
    with np.errstate(invalid="ignore", over="ignore"):
        score = products + linear
    tower = np.where(there, products, np.float32(0))
    return tower, np.where(there & np.isfinite(score), score, np.float32(-np.inf))
