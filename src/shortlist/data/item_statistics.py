"""What the training log says of each item: how popular, how lately, how well liked. For the filter and the ranker.

Statistics of training events only; an item that training never saw takes the mean of everything but its popularity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shortlist.data.log import InteractionLog
from shortlist.types import Float32, Int64

HALF_LIVES = (1 / 64, 1 / 8)  # of the log's time span
HALF_LIVES_EVENTS = (4.0, 32.0)  # of a user's later events, where there is no time
PRIOR_EVENTS = 10.0  # weight of the global mean in an item's mean value
SECONDS_PER_DAY = 86_400.0
CLIP = 4.0

Float64 = NDArray[np.float64]


def item_statistics(log: InteractionLog) -> tuple[list[str], Float32]:
    """Names [F] and standardised features [N, F] of all items."""
    popularity = log.popularity()
    seen = popularity > 0
    columns: dict[str, Float64] = {"log_popularity": np.log1p(popularity)}
    for name, decayed in zip(("recent", "current"), decayed_popularity(log), strict=True):
        columns[f"log_{name}_popularity"] = np.log1p(decayed)
    if log.has_timestamps and len(log):
        columns |= _ages(log, seen)
    if np.isfinite(log.values).any():
        columns["mean_value"] = _mean_value(log)
    scaled = [_standardise(column, seen) for column in columns.values()]
    return [*columns, "unseen"], np.stack([*scaled, ~seen], axis=1).astype(np.float32)


def unseen_statistics(log: InteractionLog) -> Float32:
    """The features [F] of an item that `log` does not even list.

    That it is unseen is not said where training never saw such an item: nobody has learned what it means.
    """
    _, features = item_statistics(replace(log, item_ids=[*log.item_ids, ""]))
    unseen: Float32 = features[-1].copy()
    unseen[-1] = features[:-1, -1].any()
    return unseen


def decayed_popularity(log: InteractionLog) -> list[Float64]:
    """Events of each item [N], halved with every half-life of age: an array for each half-life, longest first."""
    if log.has_timestamps:
        age = _age(log.timestamps)
        half_lives = [share * max(float(age.max(initial=0.0)), 1.0) for share in reversed(HALF_LIVES)]
    else:
        lengths = log.lengths()
        age = (np.repeat(lengths, lengths) - 1 - log.positions()).astype(np.float64)
        half_lives = list(reversed(HALF_LIVES_EVENTS))
    decayed = (np.bincount(log.rows, np.exp2(-age / life), minlength=log.n_items) for life in half_lives)
    return [column.astype(np.float64) for column in decayed]


def _age(timestamps: Int64) -> Float64:
    """Seconds before the latest event."""
    return np.asarray(timestamps.max(initial=0) - timestamps, np.float64)


def _ages(log: InteractionLog, seen: NDArray[np.bool_]) -> dict[str, Float64]:
    """Log days since an item's first and last event; of items never seen, the mean."""
    age = _age(log.timestamps) / SECONDS_PER_DAY
    first, last = np.zeros(log.n_items), np.full(log.n_items, np.inf)
    np.maximum.at(first, log.rows, age)
    np.minimum.at(last, log.rows, age)
    columns = {"log_days_since_first": np.log1p(first), "log_days_since_last": np.log1p(np.where(seen, last, 0.0))}
    return {name: np.where(seen, column, column[seen].mean()) for name, column in columns.items()}


def _mean_value(log: InteractionLog) -> Float64:
    """Mean value of each item's events of the type that has most values, drawn to the mean of all."""
    known = np.isfinite(log.values)
    known &= log.events == np.bincount(log.events[known]).argmax()
    rows, values = log.rows[known], log.values[known].astype(np.float64)
    sums, counts = np.bincount(rows, values, minlength=log.n_items), np.bincount(rows, minlength=log.n_items)
    return np.asarray((sums + PRIOR_EVENTS * values.mean()) / (counts + PRIOR_EVENTS), np.float64)


def _standardise(column: Float64, seen: NDArray[np.bool_]) -> Float64:
    """Mean 0 and deviation 1 over the items seen."""
    known = column[seen]
    if not len(known):
        return np.zeros_like(column)
    return np.asarray(np.clip((column - known.mean()) / (known.std() or 1.0), -CLIP, CLIP), np.float64)
