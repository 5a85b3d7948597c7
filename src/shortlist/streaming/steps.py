"""One batch of the log, worked through on the executors: what each record came to, and every profile it moved.

Each task has some users' records in the log's order, reads their profiles from the store, moves them on with
`aggregate.advance` and gives the rows of one table. Nothing is written here: a task may run twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from shortlist.events.schema import EventError, parse
from shortlist.events.transport import Record
from shortlist.profiles.layout import pack, unpack
from shortlist.profiles.state import HALF_LIFE_S, Facts, Profile
from shortlist.profiles.store import ProfileStore
from shortlist.streaming.aggregate import Outcome, advance, counted, window_of

RECORDS = "partition int, offset long, appended_ms long, value binary, user_id binary"
# A row is an applied event (start_ms … positive), a refused record (reason, value) or a profile (version … profile).
OUTCOMES = (
    "partition int, offset long, user_id binary, start_ms long, item_id string, type string, positive boolean, "
    "reason string, value binary, version long, updated_ms long, affinities map<string, double>, profile binary"
)
_OUTCOMES = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("user_id", pa.binary()),
        ("start_ms", pa.int64()),
        ("item_id", pa.string()),
        ("type", pa.string()),
        ("positive", pa.bool_()),
        ("reason", pa.string()),
        ("value", pa.binary()),
        ("version", pa.int64()),
        ("updated_ms", pa.int64()),
        ("affinities", pa.map_(pa.string(), pa.float64())),
        ("profile", pa.binary()),
    ]
)
CHUNK = 2_000  # rows of one Arrow batch
STORE_TIMEOUT_S = 30.0  # nobody waits for a batch as one waits for a slate

Row = dict[str, Any]
Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Step:
    """What a task has to know; travels to the executors."""

    store: str  # URL of the profile store
    topic: str
    bundle: str | None  # folder on every executor, for the items' categories
    width_s: int  # of a window

    def run(self, batches: Batches) -> Batches:
        """Rows for all records of this task's users, which come in the log's order."""
        facts = _facts(self.bundle)
        profiles: dict[bytes, Profile | None] = {}
        moved: dict[bytes, int] = {}  # user -> partition of the last record that moved the profile
        store = ProfileStore(self.store, timeout_s=STORE_TIMEOUT_S)
        try:
            offset_of = cache(lambda partition: store.offset(self.topic, partition) or 0)
            for batch in batches:
                rows = [row for row in batch.to_pylist() if row["offset"] >= offset_of(row["partition"])]
                _read(store, profiles, {row["user_id"] for row in rows if row["user_id"]})
                records = [Record(r["partition"], r["offset"], r["value"], r["appended_ms"]) for r in rows]
                yield from _in_batches(self._rows(advance(profiles, records, facts), moved))
        finally:
            store.close()
        yield from _in_batches(_profile_row(user, partition, profiles[user]) for user, partition in moved.items())

    def _rows(self, outcomes: Iterable[Outcome], moved: dict[bytes, int]) -> Iterator[Row]:
        for record, event, refusal in outcomes:
            row: Row = {"partition": record.partition, "offset": record.offset}
            if event is None or refusal is not None:
                yield row | {"reason": refusal, "value": record.value}
                continue
            start_ms, item_id = window_of(event, self.width_s)
            user, positive = event.user_id.encode(), "positive" in counted(event)
            moved[user] = record.partition
            yield row | {
                "user_id": user,
                "start_ms": start_ms,
                "item_id": item_id,
                "type": event.type,
                "positive": positive,
            }


def _read(store: ProfileStore, profiles: dict[bytes, Profile | None], users: set[bytes]) -> None:
    """Add the profiles of `users` that are not known yet."""
    missing = sorted(users - profiles.keys())
    for user, blob in zip(missing, store.read(missing), strict=True):
        profiles[user] = None if blob is None else unpack(blob)


def step_through(records: DataFrame, step: Step, tasks: int) -> DataFrame:
    """What a batch of Kafka records comes to: users are spread over `tasks`, each with its records in order."""
    named = records.select("partition", "offset", f.unix_millis("timestamp").alias("appended_ms"), "value").mapInArrow(
        _name_users, RECORDS
    )
    spread = named.repartition(tasks, "user_id").sortWithinPartitions("partition", "offset")
    return spread.mapInArrow(step.run, OUTCOMES)


@lru_cache(maxsize=1)
def _facts(bundle: str | None) -> Facts:
    """Read once by each worker process, and imported only by those that need it: it brings Numba."""
    from shortlist.profiles.facts import bundle_facts, no_facts

    return bundle_facts(Path(bundle)) if bundle else no_facts


def _name_users(batches: Batches) -> Batches:
    """Add whose each record is; nobody's where it is no event."""
    for batch in batches:
        users = [_user_of(value) for value in batch.column("value").to_pylist()]
        yield pa.RecordBatch.from_arrays(
            [*batch.columns, pa.array(users, pa.binary())], names=[*batch.schema.names, "user_id"]
        )


def _user_of(value: bytes | None) -> bytes | None:
    try:
        return parse(value or b"").user_id.encode()
    except EventError:
        return None


def _profile_row(user: bytes, partition: int, profile: Profile | None) -> Row:
    if profile is None:
        raise AssertionError(f"user {user!r} has an applied event and no profile")
    return {
        "partition": partition,
        "user_id": user,
        "version": profile.version,
        "updated_ms": profile.updated_ms,
        "affinities": list(profile.affinities.at(profile.updated_ms // 1000, HALF_LIFE_S).items()),
        "profile": pack(profile),
    }


def _in_batches(rows: Iterable[Row]) -> Batches:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK:
            yield pa.RecordBatch.from_pylist(held, schema=_OUTCOMES)
            held = []
    if held:
        yield pa.RecordBatch.from_pylist(held, schema=_OUTCOMES)
