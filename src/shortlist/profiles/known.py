"""Profiles as they were known before each event of a log, for training: nothing in a row is from later than its event.

What a profile is, and which events count, is for `state`; the row's own event is the label and never part of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from shortlist.events.schema import EventError
from shortlist.profiles.admission import admit
from shortlist.profiles.offline import read
from shortlist.profiles.state import EMPTY, HALF_LIFE_S, SESSION_HALF_LIFE_S, TYPES, Facts, Profile, step

if TYPE_CHECKING:
    from shortlist.events.schema import Event
    from shortlist.events.transport import Source

Arrival = Literal["appended", "happened"]
_ROWS = 50_000  # of one piece of the file

_WEIGHTS = pl.List(pl.Struct({"category": pl.String, "weight": pl.Float64}))
_COLUMNS: dict[str, Any] = {
    "event_id": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "type": pl.String,
    "value": pl.Float64,
    "timestamp_ms": pl.Int64,
    "version": pl.Int64,
    "updated_ms": pl.Int64,
    "history": pl.List(pl.Struct({"item_id": pl.String, "type": pl.String, "timestamp_ms": pl.Int64})),
    "positives": pl.List(pl.String),
    "disliked": pl.List(pl.String),
    "affinities": _WEIGHTS,
    "session_affinities": _WEIGHTS,
    "counters": pl.Struct(dict.fromkeys(TYPES, pl.Int64)),
}


def export(source: Source, facts: Facts, out: Path, arrival: Arrival = "appended") -> int:
    """Write one row an applied event, with its user's profile before it, as Parquet files in `out`; the count of rows.

    Known before an event at time t is what the log had taken before t ("appended": what a request at t could see), or,
    for a log that was imported afterwards, what had happened before t ("happened"). Events of one partition are held in
    memory at a time. Raises TransportError, OffsetError.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for partition, end in sorted(source.ends().items()):
        rows: list[dict[str, Any]] = []
        for row in _rows(source, {partition: end}, facts, arrival):
            rows.append(row)
            if len(rows) == _ROWS:
                count += _write(rows, out, count)
        count += _write(rows, out, count)
    return count


def known_before(
    arrivals: list[tuple[int, Event]], facts: Facts, arrival: Arrival = "appended"
) -> Iterator[tuple[Event, Profile]]:
    """Each applied event of one user with the profile before it, from (appended_ms, event) in the log's order."""
    if arrival == "happened":
        arrivals = sorted(((event.timestamp_ms, event) for _, event in arrivals), key=lambda pair: pair[0])
    applied: list[Event] = []
    times: list[int] = []
    profiles = [EMPTY]  # after so many applied events
    for moment, event in arrivals:
        profile, refusal = step(profiles[-1], event, facts)
        if refusal is None:
            applied.append(event)
            times.append(moment)
            profiles.append(profile)
    times = list(accumulate(times, max))
    for place, event in enumerate(applied):
        yield event, profiles[min(bisect_left(times, event.timestamp_ms), place)]


def _rows(source: Source, ends: dict[int, int], facts: Facts, arrival: Arrival) -> Iterator[dict[str, Any]]:
    users: dict[str, list[tuple[int, Event]]] = defaultdict(list)
    for record in read(source, {}, ends):
        try:
            event = admit(record)
        except EventError:
            continue
        users[event.user_id].append((record.appended_ms, event))
    for arrivals in users.values():
        for event, profile in known_before(arrivals, facts, arrival):
            yield _row(event, profile)


def _row(event: Event, profile: Profile) -> dict[str, Any]:
    second = event.timestamp_ms // 1000
    history = [{"item_id": i.decode(), "type": t, "timestamp_ms": m} for i, t, _, m in profile.history]
    return {
        "event_id": event.event_id,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "type": event.type,
        "value": event.value,
        "timestamp_ms": event.timestamp_ms,
        "version": profile.version,
        "updated_ms": profile.updated_ms,
        "history": history,
        "positives": [item.decode() for item in profile.seen_since(0)],
        "disliked": [item.decode() for item in profile.disliked],
        "affinities": _weights(profile.affinities.at(second, HALF_LIFE_S)),
        "session_affinities": _weights(profile.session.affinities.at(second, SESSION_HALF_LIFE_S)),
        "counters": profile.counts(),
    }


def _weights(weights: dict[str, float]) -> list[dict[str, Any]]:
    return [{"category": name, "weight": weight} for name, weight in weights.items()]


def _write(rows: list[dict[str, Any]], out: Path, first: int) -> int:
    """Write and forget `rows`, the first of which is the row number `first`."""
    count = len(rows)
    if count:
        pl.DataFrame(rows, schema=_COLUMNS).write_parquet(out / f"part-{first:012d}.parquet")
    rows.clear()
    return count
