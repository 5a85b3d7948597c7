"""Asks recommenders about the examples of a split, in batches, and measures what they answer.

Histories are gathered per batch and never for all users at once, so a catalogue of 60,000 items fits in a few hundred
megabytes. How the examples were held out is decided in `shortlist.data.splits`; intervals in `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.evaluation.baselines import Popularity
from shortlist.evaluation.metrics import CUTOFFS, Catalogue, Float64, PerExample, auc, coverage, measure
from shortlist.evaluation.progress import progress
from shortlist.evaluation.recommender import CatalogueScorer, Recommender, Scorer, history_pairs, masks_seen
from shortlist.types import Int32, Int64

DEPTH = max(CUTOFFS)
SCORES_AT_ONCE = 2**24  # catalogue scores held by one batch: 64 MB as float32
MAX_BATCH = 1024
AUC_UP_TO = 200_000  # items; AUC needs the scores of all of them, other metrics only the best


@dataclass(frozen=True, eq=False)
class Result:
    """One model's answers to E examples, measured."""

    name: str
    rows: Int32  # [E, 50] best first
    per_example: PerExample
    coverage: dict[str, float]  # of all lists together, so not per example

    def means(self) -> dict[str, float]:
        """Every metric as one number."""
        return {name: float(values.mean()) for name, values in self.per_example.items()} | self.coverage


def batches(examples: Examples, size: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive batches, small enough that scores of the whole catalogue fit."""
    size = size or max(1, min(MAX_BATCH, SCORES_AT_ONCE // max(1, examples.log.n_items)))
    for start in range(0, len(examples), size):
        yield start, min(start + size, len(examples))


def recommend(recommender: Recommender, examples: Examples, k: int = DEPTH, *, show_progress: bool = False) -> Int32:
    """The recommender's first k items for every example, Int32[E, k]."""
    rows = np.full((len(examples), k), -1, np.int32)
    for start, stop in progress(list(batches(examples)), recommender.name, show_progress):
        rows[start:stop] = recommender.top(examples, start, stop, k)
    return rows


def evaluate(
    recommenders: Iterable[Recommender], split: Split, catalogue: Catalogue, *, show_progress: bool = False
) -> list[Result]:
    """Measure each recommender on the split's test examples; a generator of them keeps one in memory at a time."""
    examples = split.test
    popular = recommend(Popularity.fit(split.train, masks_seen(split.train)), examples)
    return [measured(model, examples, catalogue, popular, show_progress=show_progress) for model in recommenders]


def measured(
    recommender: Recommender, examples: Examples, catalogue: Catalogue, popular: Int32, *, show_progress: bool = False
) -> Result:
    """Measure one recommender; `popular` [E, 50] are the popularity baseline's lists for the same examples."""
    rows = np.full((len(examples), DEPTH), -1, np.int32)
    aucs = np.zeros(len(examples))
    for start, stop in progress(list(batches(examples)), recommender.name, show_progress):
        rows[start:stop], aucs[start:stop] = _answer(recommender, examples, start, stop)
    per_example = measure(rows, examples.targets(), catalogue, popular)
    if isinstance(recommender, Scorer) and examples.log.n_items <= AUC_UP_TO:
        per_example["auc"] = aucs
    covered = {f"coverage@{k}": coverage(rows[:, :k], examples.log.n_items) for k in CUTOFFS}
    return Result(recommender.name, rows, per_example, covered)


def _answer(recommender: Recommender, examples: Examples, start: int, stop: int) -> tuple[Int32, Float64 | float]:
    """Lists [B, 50] and AUC [B]; scores that serve for both are computed once."""
    if not isinstance(recommender, Scorer) or examples.log.n_items > AUC_UP_TO:
        return recommender.top(examples, start, stop, DEPTH), 0.0
    scores = recommender.scores(examples, start, stop)
    batch, seen, _ = history_pairs(examples, start, stop)
    values = auc(scores, examples.targets()[start:stop], (batch, seen))
    if isinstance(recommender, CatalogueScorer):
        return recommender.rank(scores, examples, start, DEPTH), values
    return recommender.top(examples, start, stop, DEPTH), values


def history_lengths(examples: Examples) -> Int64:
    """Events before each target, [E]."""
    return examples.positions.astype(np.int64)


def target_popularity(examples: Examples, train: InteractionLog) -> Int64:
    """Training events of each target item, [E]."""
    return train.popularity()[examples.targets()]
