"""MMR against what people use instead, on one made-up batch; who times it, and how, is the caller's affair.

The batch looks like life: unit vectors around cluster centres that share a direction, as embeddings do, so that
similarities are spread between 0 and 1; candidates come best first, with scores of a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.mmr import mmr, warm_up


@dataclass(frozen=True)
class Batch:
    """items [M, D], rows and relevance [B, N], trade_off [B]."""

    items: NDArray[np.float32]
    rows: NDArray[np.int32]
    relevance: NDArray[np.float32]
    trade_off: NDArray[np.float32]
    k: int


def cases(batch: int = 16, count: int = 100, dim: int = 64, k: int = 10) -> dict[str, Callable[[], object]]:
    """The same picks from the same table, by three means, on one thread: each call answers the whole batch."""
    problem = made_up_batch(batch, count, dim, k)
    picks = np.empty((batch, k), np.int32)
    warm_up()

    def shortlist() -> NDArray[np.int32]:
        mmr(problem.items, problem.rows, problem.relevance, problem.trade_off, k, out=picks)
        return picks

    return {"shortlist": shortlist, "numpy": lambda: by_numpy(problem), "pyversity": lambda: by_pyversity(problem)}


def made_up_batch(batch: int, count: int, dim: int, k: int, table: int = 10_000, trade_off: float = 0.7) -> Batch:
    """Requests whose candidates are drawn from a table of `table` items."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, dim)) + rng.normal(size=dim)
    items = centres[rng.integers(0, len(centres), table)] + 0.5 * rng.normal(size=(table, dim))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    mapped = np.frombuffer(mmap(-1, items.size * 4), np.float32).reshape(items.shape)  # as a catalogue's files are
    mapped[:] = items
    rows = np.stack([rng.choice(table, count, replace=False) for _ in range(batch)])
    scores = 1 / (1 + np.exp(-rng.normal(size=(batch, count))))
    relevance = -np.sort(-scores, axis=1)
    weights = np.full(batch, trade_off, np.float32)
    return Batch(mapped, rows.astype(np.int32), relevance.astype(np.float32), weights, k)


def by_numpy(problem: Batch) -> NDArray[np.int32]:
    """A loop over requests and picks, vectorised over candidates; similarities are computed once per pick."""
    picks = np.empty((len(problem.rows), problem.k), np.int32)
    for b, weight in enumerate(problem.trade_off):
        vectors = problem.items[problem.rows[b]]
        values = scaled = weight * problem.relevance[b]
        closest = np.full(len(vectors), -np.inf, np.float32)
        for slot in range(problem.k):
            best = values.argmax()
            picks[b, slot] = best
            closest = np.maximum(closest, vectors @ vectors[best])
            values = scaled - (1 - weight) * closest
            values[picks[b, : slot + 1]] = -np.inf
    return picks


def by_pyversity(problem: Batch) -> NDArray[np.int32]:
    """pyversity's MMR, request by request. It counts negative similarities as 0; here there are hardly any."""
    import pyversity

    picks = np.empty((len(problem.rows), problem.k), np.int32)
    for b, weight in enumerate(problem.trade_off):
        vectors = problem.items[problem.rows[b]]
        picks[b] = pyversity.mmr(
            vectors, problem.relevance[b], problem.k, diversity=1 - float(weight), normalize=False
        ).indices
    return picks
