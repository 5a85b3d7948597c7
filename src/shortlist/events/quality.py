"""How good a stream of events is: what is refused, missing, late, repeated, out of range; and filling in what lacks.

It looks at raw records, so that refused events count too. A report changes nothing; `impute` returns new events that
say how their value came about. What becomes of late and repeated events is the consumer's affair.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.events.schema import VALUES, Event, EventError, Imputation, fill_in, parse
from shortlist.events.transport import Record

Float64 = NDArray[np.float64]

LATE_AFTER_MS = 60_000
EARLY_AFTER_MS = 60_000  # clocks of browsers differ
MEMORY = 1_000_000  # event ids; repetitions are found at this distance at least, at twice of it at most
NEIGHBOURS = 20
_MAX_NAMES = 64  # of the context, that are counted


@dataclass
class Quality:
    """Counts of one stream. Shares are of the accepted events; those of what is refused, of all records."""

    late_after_ms: int = LATE_AFTER_MS
    records: int = 0
    events: int = 0  # accepted
    refused: Counter[str] = field(default_factory=Counter)  # by field
    out_of_range: Counter[str] = field(default_factory=Counter)  # by field, of the refused
    types: Counter[str] = field(default_factory=Counter)
    valued: Counter[str] = field(default_factory=Counter)  # by type, that have their value
    sessions: int = 0
    context: Counter[str] = field(default_factory=Counter)  # by name
    late: int = 0
    early: int = 0  # of a time yet to come
    duplicate: int = 0
    imputed: int = 0

    def missing(self) -> dict[str, float]:
        """Share of events without it, by field; of `value`, by type, of the events of the type."""
        found = {f"value of {t}": 1 - self.valued[t] / self.types[t] for t in VALUES if self.types[t]}
        if self.events:
            found["session_id"] = 1 - self.sessions / self.events
            found |= {f"context.{name}": 1 - count / self.events for name, count in self.context.most_common()}
        return found

    def to_document(self) -> dict[str, Any]:
        """As JSON: counts, and shares from 0 to 1."""
        events, records = max(self.events, 1), max(self.records, 1)
        return {
            "records": self.records,
            "events": self.events,
            "types": dict(self.types.most_common()),
            "refused": {"share": self.refused.total() / records, "by_field": dict(self.refused.most_common())},
            "out_of_range": {
                "share": self.out_of_range.total() / records,
                "by_field": dict(self.out_of_range.most_common()),
            },
            "missing": self.missing(),
            "late": {"share": self.late / events, "after_ms": self.late_after_ms},
            "early": {"share": self.early / events, "after_ms": EARLY_AFTER_MS},
            "duplicate": {"share": self.duplicate / events, "within_events": MEMORY},
            "imputed": {"share": self.imputed / events},
        }


def assess(records: Iterable[Record], late_after_ms: int = LATE_AFTER_MS) -> Quality:
    """Look at every record once. Late is an event that the log took more than `late_after_ms` after it happened.

    Records that do not say when they were appended (0: lines of a file) are taken to arrive with the newest so far.
    """
    quality, seen, newest = Quality(late_after_ms), _Recent(MEMORY), 0
    for record in records:
        quality.records += 1
        try:
            event = parse(record.value)
        except EventError as error:
            _refused(quality, error)
            continue
        newest = max(newest, event.timestamp_ms)
        delay = (record.appended_ms or newest) - event.timestamp_ms
        quality.late += delay > late_after_ms
        quality.early += delay < -EARLY_AFTER_MS
        quality.duplicate += seen.meet(event.event_id)
        _accepted(quality, event)
    return quality


def impute(events: Sequence[Event], method: Imputation, neighbours: int = NEIGHBOURS) -> list[Event]:
    """`events` with missing values filled in, by type, from the values that are there; `imputed` says by which method.

    `user_mean` falls back to the mean for people without a value; `knn` is the mean of the values of the `neighbours`
    events whose person and item have the most similar averages. A type of which nobody has a value is left as it is.
    """
    filled = list(events)
    for name in VALUES:
        rows = [row for row, event in enumerate(events) if event.type == name]
        known = [row for row in rows if events[row].value is not None and events[row].imputed is None]
        lacking = [row for row in rows if events[row].value is None]
        if not known or not lacking:
            continue
        values = np.array([events[row].value for row in known], np.float64)
        estimates = _estimate(method, [events[r] for r in known], values, [events[r] for r in lacking], neighbours)
        for row, estimate in zip(lacking, estimates.tolist(), strict=True):
            filled[row] = fill_in(events[row], estimate, method)
    return filled


class _Recent:
    """The last ids met, in two generations: when the younger is full, the older is forgotten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: set[str] = set()
        self._old: set[str] = set()

    def meet(self, key: str) -> bool:
        """Whether `key` was met before."""
        known = key in self._young or key in self._old
        self._young.add(key)
        if len(self._young) >= self._size:
            self._young, self._old = set(), self._young
        return known


def _refused(quality: Quality, error: EventError) -> None:
    quality.refused[error.field] += 1
    number = isinstance(error.value, int | float) and not isinstance(error.value, bool)
    if number and error.field in ("value", "timestamp_ms"):
        quality.out_of_range[error.field] += 1


def _accepted(quality: Quality, event: Event) -> None:
    quality.events += 1
    quality.types[event.type] += 1
    quality.valued[event.type] += event.value is not None and event.imputed is None
    quality.imputed += event.imputed is not None
    quality.sessions += event.session_id is not None
    for name in event.context or ():
        if name in quality.context or len(quality.context) < _MAX_NAMES:
            quality.context[name] += 1


def _estimate(
    method: Imputation, known: Sequence[Event], values: Float64, lacking: Sequence[Event], neighbours: int
) -> Float64:
    """Values for the `lacking` events: Float64[len(lacking)]."""
    match method:
        case "mean":
            return np.full(len(lacking), values.mean())
        case "median":
            return np.full(len(lacking), np.median(values))
        case "user_mean":
            return _means(known, values, lacking, _user, weight=0.0)
        case "knn":
            return _nearest(known, values, lacking, neighbours)


def _nearest(known: Sequence[Event], values: Float64, lacking: Sequence[Event], neighbours: int) -> Float64:
    from scipy.spatial import cKDTree

    # An event's own value is left out of its averages: those that look for neighbours have none in theirs either.
    places = np.stack([_means(known, values, known, key, own=values) for key in (_user, _item)], axis=1)
    asked = np.stack([_means(known, values, lacking, key) for key in (_user, _item)], axis=1)
    _, found = cKDTree(places).query(asked, k=np.arange(1, min(neighbours, len(known)) + 1))
    nearest: Float64 = values[found].mean(axis=1)
    return nearest


def _means(
    known: Sequence[Event],
    values: Float64,
    of: Sequence[Event],
    key: Callable[[Event], str],
    weight: float = 1.0,
    own: Float64 | None = None,
) -> Float64:
    """The mean value of the known events that share each event's key, drawn to the mean of all by `weight` events.

    `own` are values of the events themselves that do not count: Float64[len(of)].
    """
    overall = float(values.mean())
    sums: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for event, value in zip(known, values.tolist(), strict=True):
        sums[key(event)] += value
        counts[key(event)] += 1
    keys = [key(event) for event in of]
    total = np.array([sums[k] for k in keys], np.float64) - (0.0 if own is None else own) + weight * overall
    count = np.array([counts[k] for k in keys], np.float64) - (own is not None) + weight
    return np.divide(total, count, out=np.full(len(keys), overall), where=count > 0)


def _user(event: Event) -> str:
    return event.user_id


def _item(event: Event) -> str:
    return event.item_id
