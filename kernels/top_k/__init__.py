"""The K best of N values per request, best first, on the CPU or the GPU: wherever the values lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from shortlist.kernels.arrays import adopt, check_apart, check_integer, give_back, is_cupy
from shortlist.kernels.top_k import cpu

LIMIT = 2**31 - 1  # positions are int32


def top_k(values: Any, k: int, *, out: Any = None) -> Any:
    """Positions int32 [B, K] of the largest of `values` float32 [B, N], best first; -1 where K > N.

    Equal values go to the lowest position, NaN counts as -inf, -0 equals 0. `out` takes the result instead of a new
    array (NumPy's where the values are on the CPU, else CuPy's): then nothing is allocated, if values are contiguous
    and K is at most 2,048 or N at most 4,096; it must not overlap the values. The GPU takes N up to 8,192.
    Raises TypeError for another dtype or library, ValueError for another shape; both name the argument.
    """
    array = adopt(values)
    _check(array, k, out)
    if not is_cupy(array):
        positions = cpu.top_k(array, k, out)
    else:
        from shortlist.kernels.top_k import gpu

        positions = gpu.top_k(array, k, out)
    return give_back(positions, values) if out is None else out


def warm_up() -> None:
    """Compile what serving calls on the CPU, so that no request does."""
    cpu.warm_up()


def _check(values: Any, k: int, out: Any) -> None:
    if values.dtype != np.float32:
        raise TypeError(f"values: dtype is {values.dtype}; float32 is allowed")
    if values.ndim != 2 or values.shape[1] > LIMIT:
        raise ValueError(f"values: shape is {values.shape}; [B, N] with N up to {LIMIT} is allowed")
    check_integer("k", k)
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is allowed")
    if out is None:
        return
    if type(out) is not type(values) or out.dtype != np.int32:
        raise TypeError(
            f"out: is {getattr(out, 'dtype', '')} of {type(out).__name__}; int32 of {type(values).__name__} is allowed"
        )
    if out.shape != (values.shape[0], k) or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"out: shape is {out.shape}; [{values.shape[0]}, {k}], contiguous and writable, is allowed")
    check_apart("out", out, {"values": values})
