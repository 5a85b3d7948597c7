"""What MMR and DPP share outside the compiled code: their arguments, how these are checked, and who gets the work.

Shapes and types are checked here from attributes alone; values are checked by the kernels, and `explain` says in the
CPU's name what they refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.arrays import adopt, check_apart, check_integer, give_back, is_cupy

MOST = 1024  # candidates per request
FLOAT, HALF, INT = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int32)
NO_GROUPS: NDArray[np.int32] = np.zeros(0, np.int32)


@dataclass(slots=True)
class Problem:
    """Arguments of a selection as NumPy or CuPy arrays, checked; `groups` may be None, `out` is int32 [B, K]."""

    items: Any
    rows: Any
    relevance: Any
    trade_off: Any
    k: int
    groups: Any
    max_per_group: int
    out: Any


def unpacked(problem: Problem) -> tuple[Any, ...]:
    """The arrays as the compiled code takes them: half precision as uint16; copied where they are not contiguous."""
    items, groups = problem.items, problem.groups
    return (
        items.view(np.uint16) if items.dtype == HALF else items,
        np.ascontiguousarray(problem.rows),
        np.ascontiguousarray(problem.relevance),
        problem.trade_off,
        NO_GROUPS if groups is None else groups,
        problem.max_per_group,
    )


def select(problem: Problem, on_cpu: Callable[[Problem], Any], on_gpu: Callable[[], Callable[..., Any]]) -> Any:
    """Check `problem`, and let its device choose: the picks, as an array of the library that the items came from."""
    items, out = problem.items, problem.out
    _adopt(problem)
    _check_items(problem)
    _check_requests(problem)
    picks = _launch(problem, on_gpu()) if is_cupy(problem.items) else on_cpu(problem)
    return give_back(picks, items) if out is None else out


def in_threads(run: Callable[[int, int], bool], batch: int, threads: int) -> bool:
    """Whether `run(first, last)` is true of all parts of `batch` requests, split over `threads` threads."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least 1 is allowed")
    if threads == 1 or batch <= 1:
        return run(0, batch)
    parts = min(threads, batch)
    cuts = [batch * part // parts for part in range(parts + 1)]
    futures = [_pool(threads, os.getpid()).submit(run, *cut) for cut in pairwise(cuts)]
    return all([future.result() for future in futures])  # of all, so that none still runs


def explain(problem: Problem) -> Exception:
    """What is wrong with the values of `problem`, which the compiled code has refused."""
    rows, relevance, trade_off, table = problem.rows, problem.relevance, problem.trade_off, len(problem.items)
    for b, n in np.argwhere((rows < -1) | (rows >= table)):
        return IndexError(f"rows[{b}, {n}] = {rows[b, n]}: -1 to {table - 1} is allowed")
    for b, n in np.argwhere(~np.isfinite(relevance) & (rows >= 0)):
        return ValueError(f"relevance[{b}, {n}] = {relevance[b, n]} is not finite")
    for (b,) in np.argwhere(~((trade_off >= 0) & (trade_off <= 1))):
        return ValueError(f"trade_off[{b}] = {trade_off[b]}: 0 to 1 is allowed")
    return RuntimeError("rows, relevance or trade_off changed while they were read")


def _adopt(problem: Problem) -> None:
    problem.items, problem.rows = adopt(problem.items), adopt(problem.rows)
    problem.relevance, problem.trade_off = adopt(problem.relevance), adopt(problem.trade_off)
    if problem.groups is not None:
        problem.groups = adopt(problem.groups)
    if problem.out is not None:
        problem.out = _writable(problem.out)


def _writable(out: Any) -> Any:
    """`out` as NumPy's or CuPy's array. NumPy takes DLPack read-only, but shares memory with CPU tensors by itself."""
    array = out if type(out) is np.ndarray else adopt(out)
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = np.asarray(out)
        if not array.flags.writeable:
            raise ValueError("out: is read-only; it must be writable")
    return array


def _check_items(problem: Problem) -> None:
    """The table and its groups."""
    items, groups, cap = problem.items, problem.groups, problem.max_per_group
    if items.dtype != FLOAT and items.dtype != HALF:
        raise TypeError(f"items: dtype is {items.dtype}; float32 or float16 is allowed")
    if items.ndim != 2:
        raise ValueError(f"items: shape is {items.shape}; [M, D] is allowed")
    if items.shape[1] > 1 and items.strides[1] != items.itemsize:
        raise ValueError(f"items: strides are {items.strides}; the elements of a row must lie side by side")
    if groups is not None:
        _check(problem, "groups", groups, INT, items.shape[:1])
    check_integer("max_per_group", cap)
    if (cap < 1) if groups is not None else (cap != 0):
        allowed = "at least 1 with groups" if groups is not None else "0 without groups"
        raise ValueError(f"max_per_group is {cap}; {allowed} is allowed")


def _check_requests(problem: Problem) -> None:
    """What comes with the requests, and where the picks go."""
    rows, k = problem.rows, problem.k
    if rows.ndim != 2 or rows.shape[1] > MOST:
        raise ValueError(f"rows: shape is {rows.shape}; [B, N] with N up to {MOST} is allowed")
    check_integer("k", k)
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is allowed")
    shape = rows.shape
    _check(problem, "rows", rows, INT, shape)
    _check(problem, "relevance", problem.relevance, FLOAT, shape)
    _check(problem, "trade_off", problem.trade_off, FLOAT, shape[:1])
    if problem.out is not None:
        _check(problem, "out", problem.out, INT, (shape[0], k))
        names = ("items", "rows", "relevance", "trade_off", "groups")
        check_apart("out", problem.out, {name: getattr(problem, name) for name in names})


def _check(problem: Problem, name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype:
        raise TypeError(f"{name}: dtype is {array.dtype}; {dtype} is allowed")
    if array.shape != shape:
        raise ValueError(f"{name}: shape is {array.shape}; {shape} is allowed")
    if type(array) is not type(problem.items) and is_cupy(array) != is_cupy(problem.items):
        raise TypeError(f"{name}: is not on the device of the items")


def _launch(problem: Problem, gpu: Callable[..., Any]) -> Any:
    """The picks of `gpu`, whose arrays must be contiguous."""
    named = {name: getattr(problem, name) for name in ("items", "rows", "relevance", "trade_off", "groups", "out")}
    for name, array in named.items():
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(f"{name}: strides are {array.strides}; contiguous is allowed on the GPU")
    items, rows, relevance, trade_off, groups, out = named.values()
    return gpu(
        items, rows, relevance, trade_off, problem.k, groups=groups, max_per_group=problem.max_per_group, out=out
    )


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay, for this process: a fork inherits the pool's memory but none of its threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="shortlist-kernels")
