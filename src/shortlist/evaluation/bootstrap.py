"""Paired bootstrap intervals: how sure is it that one model beats another on the same examples.

Whole users are resampled, since the examples of one user are not independent (under leave-one-out each user has one).
All metrics and models share the same resamples, so every difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shortlist.evaluation.metrics import Float64, PerExample
from shortlist.types import Int32

RESAMPLES = 2000
LEVEL = 0.95
DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile interval at 95 %."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As plain numbers."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def resampled_means(values: Float64, clusters: Int32, *, resamples: int = RESAMPLES, seed: int) -> Float64:
    """Means of the columns of `values` [E, M] over examples of resampled clusters [E], Float64[resamples, M]."""
    _, cluster = np.unique(clusters, return_inverse=True)
    count = int(cluster.max(initial=-1)) + 1
    if count == 0:
        raise ValueError("there are no examples to resample")
    sizes = np.bincount(cluster, minlength=count).astype(np.float64)
    sums = np.stack([np.bincount(cluster, weights=column, minlength=count) for column in values.T], axis=1)  # [C, M]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, DRAWS_AT_ONCE // count)
    for start in range(0, resamples, step):
        weights = _draw(generator, min(step, resamples - start), count)
        means[start : start + step] = (weights @ sums) / (weights @ sizes)[:, None]
    return means


def paired_difference(
    ours: Float64,
    theirs: Float64,
    clusters: Int32 | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of mean(ours) - mean(theirs), [E] each, paired by example; `clusters` [E] defaults to each its own."""
    clusters = np.arange(len(ours), dtype=np.int32) if clusters is None else clusters
    return _intervals((ours - theirs)[:, None], clusters, resamples, seed)[0]


def paired_differences(
    ours: PerExample,
    others: Mapping[str, PerExample],
    clusters: Int32,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Interval of ours - other for every other model and every metric both have: {other: {metric: Interval}}."""
    keys = [(other, metric) for other, values in others.items() for metric in values if metric in ours]
    if not keys:
        return {}
    columns = np.stack([ours[metric] - others[other][metric] for other, metric in keys], axis=1)
    differences: dict[str, dict[str, Interval]] = {}
    for (other, metric), interval in zip(keys, _intervals(columns, clusters, resamples, seed), strict=True):
        differences.setdefault(other, {})[metric] = interval
    return differences


def _intervals(values: Float64, clusters: Int32, resamples: int, seed: int) -> list[Interval]:
    tail = (1 - LEVEL) / 2
    means = resampled_means(values, clusters, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    bounds = zip(values.mean(axis=0), low, high, strict=True)
    return [Interval(float(mean), float(least), float(most)) for mean, least, most in bounds]


def _draw(generator: np.random.Generator, resamples: int, count: int) -> Float64:
    """How often each of `count` clusters is drawn in each resample, Float64[resamples, count]."""
    drawn = generator.integers(0, count, size=(resamples, count)) + np.arange(resamples)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
