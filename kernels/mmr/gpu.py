"""Greedy MMR on the GPU: launches mmr.cu, and raises for values that it refused.

Shapes and types are checked before, by `shortlist.kernels.selection`. `run` serves DPP too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.gpu import ITEM_TYPES, NOTHING, NULL, kernel, load_width, new_refused
from shortlist.kernels.selection import Problem, explain

CHECKS = 3  # of rows, relevance and trade_off, in the order of greedy.cuh
CANDIDATE_BYTES = 20  # of shared memory
MOST_THREADS = 384


def mmr(
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
) -> Any:
    """`shortlist.kernels.mmr` for contiguous CuPy arrays.

    With `refused` (CuPy int32 [3], filled with 2³¹ - 1: rows, relevance, trade_off) nothing waits for the GPU and
    nothing is raised: it gets the lowest flat index of each that was refused, and keeps what earlier calls wrote;
    refused requests get no picks. So it suits CUDA graphs.
    """
    problem = Problem(items, rows, relevance, trade_off, k, groups, max_per_group, out)
    return run("mmr", problem, refused)


def run(name: str, problem: Problem, refused: Any, extra: Sequence[Any] = ()) -> Any:
    """The picks of the selection `name`, one block for each request; `extra` are arguments of its own."""
    items, (batch, count) = problem.items, problem.rows.shape
    picks = import_cupy().empty((batch, problem.k), np.int32) if problem.out is None else problem.out
    if batch == 0:
        return picks
    seen = new_refused(CHECKS) if refused is None else refused
    constants = plan(items.dtype.name, items.shape[1], load_width(items), count)
    launch = kernel(Path(__file__).parents[1] / name / f"{name}.cu", name, **constants)
    table = (items, np.int32(len(items)), problem.rows, problem.relevance, np.int32(count), problem.trade_off)
    limits = (NULL if problem.groups is None else problem.groups, np.int32(problem.max_per_group))
    arguments = (*table, *limits, picks, np.int32(problem.k), seen, *extra)
    launch((batch,), (constants["THREADS"],), arguments, shared_mem=CANDIDATE_BYTES * count)
    if refused is None and (seen.get() != NOTHING).any():
        raise explain(_on_cpu(problem))
    return picks


def plan(item_type: str, dim: int, load: int, count: int) -> dict[str, int | str]:
    """The constants to compile with: rows of `dim` columns that allow loads of `load`, `count` candidates.

    16 / load threads share a candidate; the block works on all candidates at once, or in as few turns as it takes. It
    has 64 to 384 threads, so that blocks can fill three quarters of every multiprocessor.
    """
    wanted = max(1, count * 16 // load)
    turns = math.ceil(wanted / MOST_THREADS)
    threads = math.ceil(wanted / turns / 64) * 64
    return {"ITEM": ITEM_TYPES[item_type], "DIM": dim, "WIDTH": load, "THREADS": threads}


def _on_cpu(problem: Problem) -> Problem:
    """A copy of what may have been refused."""
    rows, relevance, trade_off = (array.get() for array in (problem.rows, problem.relevance, problem.trade_off))
    return Problem(
        problem.items, rows, relevance, trade_off, problem.k, problem.groups, problem.max_per_group, problem.out
    )
