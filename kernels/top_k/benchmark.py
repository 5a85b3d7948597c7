"""Top-k against what people use instead, on made-up batches; who times it, and how, is the caller's affair.

Every call gets the next of several batches: processors learn the branches of a sort by heart where its data repeat.
NumPy comes in two ways to get the same positions, of which the faster one for the shape is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.timing import interleaved
from shortlist.kernels.top_k import top_k, warm_up

BATCHES = 32


def cases(batch: int = 16, count: int = 500, k: int = 100) -> dict[str, Callable[[], object]]:
    """The same positions of the same scores, by three means, on one thread: each call answers a whole batch."""
    import torch

    torch.set_num_threads(1)
    batches = np.random.default_rng(0).normal(size=(BATCHES, batch, count)).astype(np.float32)
    positions = np.empty((batch, k), np.int32)
    warm_up()
    ways = [lambda values: by_sorting(values, k), lambda values: by_partition(values, k)]
    times = interleaved({str(i): in_turn(batches, way) for i, way in enumerate(ways)}, rounds=5)
    fastest = min(range(len(ways)), key=lambda i: times[str(i)])
    return {
        "shortlist": in_turn(batches, lambda values: top_k(values, k, out=positions)),
        "numpy": in_turn(batches, ways[fastest]),
        "torch": in_turn(torch.from_numpy(batches), lambda values: torch.topk(values, k).indices),
    }


def in_turn(batches: Any, find: Callable[[Any], object]) -> Callable[[], object]:
    """A function that answers the next batch at each call."""
    turn = cycle(batches)
    return lambda: find(next(turn))


def by_sorting(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Sort all; the order of equal values is left to chance, which lets NumPy use its fastest sort."""
    return np.argsort(-values, axis=1)[:, :k]


def by_partition(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Part the best from the rest, and sort them alone."""
    best = np.argpartition(-values, min(k, values.shape[1]) - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(values, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)
