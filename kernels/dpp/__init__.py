"""Batched greedy determinantal selection: the K of N candidates that are relevant and span much together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shortlist.kernels.dpp import cpu
from shortlist.kernels.selection import Problem, select

__all__ = ["dpp", "warm_up"]


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
    threads: int = 1,
) -> Any:
    """Pick K of N candidates for each of B requests by a DPP's greedy MAP (Chen, Zhang, Zhou, NeurIPS 2018).

    items [M, D] float32 or float16: a table of vectors, on the CPU or the GPU (unit length: inner product is cosine).
    rows [B, N] int32: each request's candidates; -1 is missing, anywhere, and never read. N is at most 1024.
    relevance [B, N] float32: finite where there is a candidate, higher is better.
    trade_off [B] float32: λ in [0, 1]; a candidate is worth λ · relevance + (1 - λ) · log(residual), where residual is
    its squared distance from the span of what is picked: each pick adds most to log det of the picked part of
    L = diag(exp(α r)) S diag(exp(α r)) with α = λ / (2 (1 - λ)). 1 is pure relevance, 0 pure volume. Where vectors have
    fewer dimensions than K, residuals end at 1e-6, and relevance alone decides.
    groups [M] int32: of each item, -1 for none; at most `max_per_group` of a group are picked, if need be fewer than K.

    Returns positions [B, K] int32 into the N candidates, in order of choice, -1 where there are no more; equal values
    go to the lowest position. All arrays lie on the same device; the result is of the items' library. `out` takes it
    instead of a new array; besides it, the CPU allocates one float32 [min(K, N), N] per call and thread. `threads`
    share the B requests, on the CPU only; handing out costs some 20 µs, so it takes large batches to pay.
    Raises TypeError and ValueError for wrong arguments and values, IndexError for rows that the table does not have,
    before any item is read; they name the argument, and the first wrong element.
    """
    problem = Problem(items, rows, relevance, trade_off, k, groups, max_per_group, out)
    return select(problem, lambda checked: cpu.dpp(checked, threads), _on_gpu)


def warm_up() -> None:
    """Compile what serving calls on the CPU, so that no request does."""
    cpu.warm_up()


def _on_gpu() -> Callable[..., Any]:
    from shortlist.kernels.dpp.gpu import dpp as dpp_gpu

    return dpp_gpu
