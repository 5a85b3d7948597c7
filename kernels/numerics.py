"""The arithmetic that every version of a kernel shares, in plain NumPy: what CPU and GPU must repeat bit by bit.

Products and sums are rounded to float32 one at a time (no fused multiply-add), and sums run in one fixed order, so that
picks and scores are the same on every machine. `shortlist.kernels.lanes` and `lanes.cuh` are its fast counterparts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 16
LOG_2 = np.float32(0.6931472)
SQRT_2 = np.float32(1.4142135)


def lane_dot(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float32]:
    """Inner products along the last axis, in float32: [..., D] x [..., D] -> [...].

    Lane j of 16 adds up the products of columns j, j + 16, j + 32, … in that order; then lanes j and j + 8 are added,
    j and j + 4, j and j + 2, and the last two.
    """
    products = left.astype(np.float32) * right.astype(np.float32)
    lanes = np.zeros((*products.shape[:-1], LANES), np.float32)
    for start in range(0, products.shape[-1], LANES):
        block = products[..., start : start + LANES]
        lanes[..., : block.shape[-1]] += block
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    total: NDArray[np.float32] = lanes[..., 0]
    return total


def log(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm of positive normal float32, to about 2e-7: mathematical libraries differ in the last bit.

    x = m · 2^e with m in [√½, √2); log m = 2 (s + s³/3 + s⁵/5 + s⁷/7 + s⁹/9) with s = (m - 1) / (m + 1).
    """
    bits = np.asarray(x, np.float32).view(np.int32)
    exponent = (bits >> 23) - 127
    mantissa = ((bits & 0x007FFFFF) | 0x3F800000).view(np.float32)  # in [1, 2)
    large = mantissa >= SQRT_2
    mantissa = np.where(large, mantissa * np.float32(0.5), mantissa)
    exponent = exponent + large
    s = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    square = s * s
    series = np.full_like(s, 1 / 9)
    for power in (7, 5, 3, 1):
        series = series * square + np.float32(1 / power)
    result: NDArray[np.float32] = exponent.astype(np.float32) * LOG_2 + (s + s) * series
    return result
