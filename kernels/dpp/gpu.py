"""Greedy DPP on the GPU: launches dpp.cu, and raises for values that it refused, as MMR does.

Shapes and types are checked before, by `shortlist.kernels.selection`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.mmr.gpu import run
from shortlist.kernels.selection import Problem


def dpp(
    items: Any,
    rows: Any,
    relevance: Any,
    trade_off: Any,
    k: int,
    *,
    groups: Any = None,
    max_per_group: int = 0,
    out: Any = None,
    refused: Any = None,
    factor: Any = None,
) -> Any:
    """`shortlist.kernels.dpp` for contiguous CuPy arrays; `refused` as for `mmr`.

    `factor`: float32 [B, min(K, N), N] to work in, for rows of each request's Cholesky factor; by default a new one.
    """
    batch, count = rows.shape
    shape = (batch, min(k, count), count)
    if factor is None:
        factor = import_cupy().empty(shape, np.float32)
    elif factor.shape != shape or factor.dtype != np.float32 or not factor.flags.c_contiguous:
        raise ValueError(f"factor: is {factor.dtype} {factor.shape}; float32 {shape}, contiguous, is allowed")
    problem = Problem(items, rows, relevance, trade_off, k, groups, max_per_group, out)
    return run("dpp", problem, refused, (factor,))
