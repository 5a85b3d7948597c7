"""How much each early stage of the cascade loses: targets at retrieval, and the ranker's favourites at the filter.

Measured on plain score arrays: the caller hands a `StageSource` that scores the retrieved candidates with every stage.
The retriever's own order is measured beside the filter's, for a filter must beat simply cutting earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.data.splits import Examples
from shortlist.evaluation.metrics import Float64, hit_rate, target_ranks
from shortlist.evaluation.progress import progress
from shortlist.evaluation.protocols import batches
from shortlist.types import Bool, Float32, Int32, Int64

DEPTHS = (50, 100, 200, 500)
CUTS = ((200, 50), (500, 100))  # candidates -> kept; the last is the deployed one
BATCH = 64


@dataclass(frozen=True, eq=False)
class StageScores:
    """Every stage's score of the same candidates, in retrieval order; -inf at padding (row -1)."""

    rows: Int32  # [B, N] best first by retrieval
    filter: Float32  # [B, N]
    ranker: Float32  # [B, N]


class StageSource(Protocol):
    """Reaches into a cascade."""

    def stage_scores(self, examples: Examples, start: int, stop: int, n: int) -> StageScores:
        """Retrieve n candidates for examples start:stop and score them all with the filter and with the ranker."""


def retention(ranker_scores: Float32, filter_scores: Float32, keep: int, k: int = 10) -> Float64:
    """Share of the ranker's own top k over ALL N candidates that survives when the filter keeps `keep`, [B].

    Both score arrays are [B, N], -inf at padding. A row with fewer than k candidates counts those it has.
    """
    if ranker_scores.shape != filter_scores.shape:
        raise ValueError(f"score shapes differ: ranker {ranker_scores.shape}, filter {filter_scores.shape}")
    favourites = _best(ranker_scores, k)
    real = np.isfinite(np.take_along_axis(ranker_scores, favourites, axis=1))
    kept = np.zeros(filter_scores.shape, dtype=np.bool_)
    np.put_along_axis(kept, _best(filter_scores, keep), True, axis=1)
    survived: Bool = np.take_along_axis(kept, favourites, axis=1) & real
    return np.where(real.any(axis=1), survived.sum(axis=1) / np.maximum(real.sum(axis=1), 1), 1.0)


def cut_retention(scores: StageScores, candidates: int, keep: int, k: int = 10) -> tuple[Float64, Float64]:
    """Retention@k of the cut candidates -> keep by the filter, and by the retriever's own order, [B] each."""
    ranker, by_filter = scores.ranker[:, :candidates], scores.filter[:, :candidates]
    places = np.arange(ranker.shape[1], dtype=np.float32)
    by_retriever = np.where(scores.rows[:, :candidates] >= 0, -places, -np.inf).astype(np.float32)
    return retention(ranker, by_filter, keep, k), retention(ranker, by_retriever, keep, k)


def measure_stages(
    source: StageSource, examples: Examples, *, show_progress: bool = False
) -> dict[str, dict[str, float]]:
    """Recall of retrieval at each depth, and retention@10 of each cut of the filter, over all examples.

    Keys: `retrieve.recall@50` …; `filter.retention@10` (the deployed cut, 500 to 100), `filter.retention@10:200->50`,
    and the same for `retriever_order`.
    """
    targets, totals = examples.targets(), _Means()
    for start, stop in progress(list(batches(examples, BATCH)), "stages", show_progress):
        scores = source.stage_scores(examples, start, stop, max(DEPTHS))
        ranks = target_ranks(scores.rows, targets[start:stop])
        for depth in DEPTHS:
            totals.add("retrieve", f"recall@{depth}", hit_rate(ranks, depth))
        for candidates, keep in CUTS:
            kept, kept_by_retriever = cut_retention(scores, candidates, keep)
            totals.add("filter", f"retention@10:{candidates}->{keep}", kept)
            totals.add("retriever_order", f"retention@10:{candidates}->{keep}", kept_by_retriever)
    return _with_deployed_cut(totals.means())


def _with_deployed_cut(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    candidates, keep = CUTS[-1]
    for stage in ("filter", "retriever_order"):
        if stage in stages:
            stages[stage] = {"retention@10": stages[stage][f"retention@10:{candidates}->{keep}"]} | stages[stage]
    return stages


class _Means:
    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[float, int]] = {}

    def add(self, stage: str, metric: str, values: Float64) -> None:
        total, count = self._sums.get((stage, metric), (0.0, 0))
        self._sums[stage, metric] = (total + float(values.sum()), count + len(values))

    def means(self) -> dict[str, dict[str, float]]:
        means: dict[str, dict[str, float]] = {}
        for (stage, metric), (total, count) in self._sums.items():
            means.setdefault(stage, {})[metric] = total / max(count, 1)
        return means


def _best(scores: Float32, k: int) -> Int64:
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order
