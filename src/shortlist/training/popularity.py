"""Popularity by context for cold users: which context field, how much smoothing and how fast old events fade are
chosen by the likelihood of the validation events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.data.log import InteractionLog
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
    everyone: Float32  # [N] the share of every item

    def document(self) -> dict[str, str | list[str] | None]:
        """What serving needs to map a context to a list."""
        return {"field": self.field, "values": self.values}


def fit_popularity(split: Split) -> PopularityTable:
    """Fit on the training events; choose by the mean log share of the validation targets."""
    log, targets = split.train, split.validation.targets()
    train, held_out = (e.contexts(0, len(e)) for e in (Examples.every(log, first=0), split.validation))
    fades = FADES if log.has_timestamps else (None,)
    best: tuple[float, str | None, float | None, float] | None = None
    for field in [None, *(name for name, column in train.items() if len(_distinct(column)) <= MAX_SEGMENTS)]:
        values = [] if field is None else _distinct(train[field])
        segments, judging = _segments(train, field, values), _segments(held_out, field, values)
        for fade in fades:
            counts = _counts(log, segments, len(values), fade)
            for smoothing in SMOOTHING:
                shares = _shares(counts, smoothing, 0 if judging is None else judging, targets)
                likelihood = float(np.log(shares).mean())
                if best is None or likelihood > best[0]:
                    best = likelihood, field, fade, smoothing
    assert best is not None  # at least one combination was tried
    _, field, fade, smoothing = best
    values = [] if field is None else _distinct(train[field])
    counts = _counts(log, _segments(train, field, values), len(values), fade)
    rows, tops = zip(*(_most_popular(_shares(counts, smoothing, i)) for i in range(len(counts))), strict=True)
    everyone = _shares(counts, smoothing, 0).astype(np.float32)
    return PopularityTable(field, [str(value) for value in values], np.stack(rows), np.stack(tops), everyone)


def _distinct(column: NDArray[Any]) -> list[Any]:
    return sorted(set(column.tolist()))


def _segments(columns: dict[str, NDArray[Any]], field: str | None, values: list[Any]) -> NDArray[np.int64] | None:
    """The segment of each event, 0 where its value is none of `values`; None where all events are in segment 0."""
    if field is None:
        return None
    places = {value: i + 1 for i, value in enumerate(values)}
    return np.array([places.get(value, 0) for value in columns[field].tolist()], np.int64)


def _counts(
    log: InteractionLog, segments: NDArray[np.int64] | None, values: int, fade: float | None
) -> NDArray[np.float64]:
    """Faded counts [1 + G, N]: everyone, then each of the `values`."""
    weights = np.ones(len(log.rows))
    if fade is not None:
        age = log.timestamps.max() - log.timestamps
        weights = 0.5 ** (age / max(1.0, fade * float(age.max())))
    everyone = np.bincount(log.rows, weights, log.n_items)
    if segments is None:
        return np.asarray(everyone[None], np.float64)
    flat = np.bincount(segments * log.n_items + log.rows, weights, (1 + values) * log.n_items)
    counts = flat.reshape(1 + values, log.n_items)
    counts[0] = everyone
    return np.asarray(counts, np.float64)


def _most_popular(shares: NDArray[np.float64]) -> tuple[Int32, Float32]:
    """The items with the largest shares [N], and those."""
    rows = np.argsort(-shares, kind="stable")[:LISTED].astype(np.int32)
    return rows, shares[rows].astype(np.float32)


def _shares(
    counts: NDArray[np.float64],
    smoothing: float,
    segments: NDArray[np.int64] | int,
    items: NDArray[np.integer[Any]] | slice = slice(None),
) -> NDArray[np.float64]:
    """Probability of `items` in `segments`: smoothed towards everyone's, which is smoothed by one event an item."""
    totals = counts.sum(axis=1)
    everyone = (counts[0, items] + 1) / (totals[0] + counts.shape[1])
    shares = (counts[segments, items] + smoothing * everyone) / (totals[segments] + smoothing)
    return np.where(np.equal(segments, 0), everyone, shares)
