"""Popularity by context for cold users: which context field, how much smoothing and how fast old events fade are
chosen by the likelihood of the validation events."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from shortlist.data.splits import Examples, Split
from shortlist.types import Float32, Int32

MAX_SEGMENTS = 64
SMOOTHING = (100.0, 1000.0, 10_000.0)  # pseudo-events drawn from everyone's popularity
FADES = (None, 0.25, 0.05)  # half-life as a share of the log's time span
LISTED = 2000  # items kept per segment


@dataclass(frozen=True)
class PopularityTable:
    """Top lists `rows` and `shares` [1 + len(values), T], best first; list 0 is everyone, list i + 1 is `values[i]`."""

    field: str | None
    values: list[str]
    rows: Int32
    shares: Float32

    def document(self) -> dict[str, str | list[str] | None]:
        """What serving needs to map a context to a list."""
        return {"field": self.field, "values": self.values}


def fit_popularity(split: Split) -> PopularityTable:
    """Fit on the training events; choose by the mean log share of the validation targets."""
    train = Examples.every(split.train, first=0)
    fades = FADES if split.train.has_timestamps else (None,)
    best: tuple[float, str | None, list[str], NDArray[np.float64]] | None = None
    for field, fade in product([None, *_fields(train)], fades):
        counts, values = _counts(train, field, fade)
        held_out = _segments(split.validation, field, values)
        for smoothing in SMOOTHING:
            shares = _shares(counts, smoothing)
            likelihood = float(np.log(shares[held_out, split.validation.targets()]).mean())
            if best is None or likelihood > best[0]:
                best = likelihood, field, values, shares
    assert best is not None  # at least one combination was tried
    _, field, values, shares = best
    rows = np.argsort(-shares, axis=1, kind="stable")[:, :LISTED].astype(np.int32)
    return PopularityTable(field, values, rows, np.take_along_axis(shares, rows, axis=1).astype(np.float32))


def _fields(train: Examples) -> list[str]:
    columns = train.contexts(0, len(train))
    return [name for name, column in columns.items() if len(np.unique(column)) <= MAX_SEGMENTS]


def _counts(train: Examples, field: str | None, fade: float | None) -> tuple[NDArray[np.float64], list[str]]:
    """Faded counts [1 + G, N]: everyone, then each value of `field`."""
    log = train.log
    weights = np.ones(len(log.rows))
    if fade is not None:
        age = log.timestamps.max() - log.timestamps
        weights = 0.5 ** (age / max(1.0, fade * float(age.max())))
    values = [] if field is None else [str(v) for v in np.unique(train.contexts(0, len(train))[field])]
    counts = np.zeros((1 + len(values), log.n_items))
    np.add.at(counts[0], log.rows, weights)
    if values:
        np.add.at(counts, (_segments(train, field, values), log.rows), weights)
    return counts, values


def _segments(examples: Examples, field: str | None, values: list[str]) -> NDArray[np.int64]:
    if field is None:
        return np.zeros(len(examples), np.int64)
    places = {value: i + 1 for i, value in enumerate(values)}
    return np.array([places.get(str(v), 0) for v in examples.contexts(0, len(examples))[field]], np.int64)


def _shares(counts: NDArray[np.float64], smoothing: float) -> NDArray[np.float64]:
    """Probability of each item in each segment, smoothed towards everyone's, and that by one event an item."""
    everyone = (counts[0] + 1) / (counts[0].sum() + counts.shape[1])
    shares: NDArray[np.float64] = (counts + smoothing * everyone) / (counts.sum(axis=1, keepdims=True) + smoothing)
    shares[0] = everyone
    return shares
