"""A historical log as events: each row becomes one, with an id that says what it is, and is appended once.

The id is a hash of all that the row says, so the same data have the same ids in whatever file; what the log holds
already is left out, which is how an import that was interrupted goes on. Rows are read by `rows`, and what events do to
profiles is for the consumer.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import ConfigError
from shortlist.events.dead_letters import DeadLetter, bury
from shortlist.events.local_log import RETENTION_BYTES, LocalLog
from shortlist.events.rows import COLUMNS, Rows
from shortlist.events.schema import VALUES, Event, EventError, EventType, encode
from shortlist.events.segments import HEADER_BYTES
from shortlist.events.transport import KAFKA, Record, Sink, drain, open_source
from shortlist.profiles.admission import admit
from shortlist.types import Bool

UInt64 = NDArray[np.uint64]

BATCH = 5_000  # rows that are appended together
PREFIX = "import-"  # of an id, before 64 bits of hash
_HASH = 8  # bytes
_START = f'{{"event_id":"{PREFIX}'.encode()  # of a record that was imported
_MARK = slice(len(_START), len(_START) + 2 * _HASH)

Types = Mapping[str, EventType | None]
"""From what the data call an event to its type; None leaves such rows out."""


@dataclass
class Report:
    """What became of a log's rows."""

    rows: int
    first_ms: int
    last_ms: int
    appended: int = 0  # or would be
    there: int = 0  # in the log already
    left_out: Counter[str] = field(default_factory=Counter)  # by what the data call the event
    refused: Counter[str] = field(default_factory=Counter)  # by column or field
    valueless: Counter[str] = field(default_factory=Counter)  # rows whose value their type of event does not have

    @property
    def done(self) -> int:
        return self.appended + self.there + self.left_out.total() + self.refused.total()


def choose_types(rows: Rows, said: Mapping[str, str], others: str | None = None) -> Types:
    """The type of each kind of event in the data: as it is `said` ('' leaves it out), by its own name, or `others`.

    Raises ConfigError for a kind that has none, and for a type that there is not.
    """
    allowed = get_args(EventType)
    for name in (*said.values(), *([] if others is None else [others])):
        if name not in ("", *allowed):
            raise ConfigError(f"--type {name!r}: one of {', '.join(allowed)} is allowed")
    counts = dict(sorted(rows.counts.items(), key=lambda pair: (-pair[1], pair[0])))
    for name in said:
        if name not in counts:
            raise ConfigError(f"--type {name}=…: no row says {name!r}; the data have {_listed(counts)}")
    chosen = {name: said.get(name, name if name in allowed else others) for name in counts}
    if without := {name: counts[name] for name, kind in chosen.items() if kind is None}:
        name = next(iter(without))
        raise ConfigError(
            f"no type of event: {_listed(without)}. Say what they are: --type {name}=click ({', '.join(allowed)} are "
            f"allowed), --type {name}= leaves these rows out, --type click is for all that have none"
        )
    return {name: cast(EventType, kind) if kind else None for name, kind in chosen.items()}


def marks_in(where: str, settings: Mapping[str, str] | None = None) -> UInt64:
    """What was imported into a log before, ascending: the hashes of its ids. It is read whole."""
    found = array("Q")
    if where.startswith(KAFKA) or (Path(where) / "log.json").exists():
        source = open_source(where, settings=settings)
        try:
            found.extend(int(r.value[_MARK], 16) for r in drain(source) if r.value.startswith(_START))
        finally:
            source.close()
    return np.sort(np.frombuffer(found, np.uint64)) if found else np.empty(0, np.uint64)


def import_rows(
    rows: Rows,
    types: Types,
    there: UInt64,
    sink: Sink | None,
    dead: Sink | None = None,
    *,
    progress: Callable[[Report], object] = lambda report: None,
    tell: Callable[[str], object] = lambda line: None,
) -> Report:
    """Append the rows to `sink`, in order of time; without one, only find out what would be.

    `there` are the marks of events that the log has. Refused rows go to `dead`. Raises TransportError: what was
    appended stays so, and the next import goes on after it.
    """
    report = Report(len(rows), rows.first_us // 1000, rows.last_us // 1000)
    for letters in _batches(rows.letters()):
        _refuse(report, letters, dead)
    identify = _Identities()
    for batch in (batch for frame in rows.frames() for batch in frame.iter_slices(BATCH)):
        records, letters = _records(rows.source, batch, types, identify, report)
        _refuse(report, letters, dead)
        fresh = _absent(records, there)
        if sink is not None:
            if not report.appended and fresh:
                _check_room(sink, fresh, len(rows), tell)
            sink.append(fresh)
        report.appended += len(fresh)
        report.there += len(records) - len(fresh)
        progress(report)
    return report


class _Identities:
    """Names events by what they say; equal ones by how many came before. Given in order of time."""

    def __init__(self) -> None:
        self._moment_ms = -1
        self._met: Counter[bytes] = Counter()  # of this moment

    def __call__(self, event: dict[str, Any]) -> str:
        if event["timestamp_ms"] != self._moment_ms:
            self._moment_ms = event["timestamp_ms"]
            self._met.clear()
        mark = blake2b(encode(Event(event_id="", **event)), digest_size=_HASH).digest()
        self._met[mark] += 1
        if (count := self._met[mark]) > 1:
            mark = blake2b(mark + count.to_bytes(4, "little"), digest_size=_HASH).digest()
        return PREFIX + mark.hex()


def _records(
    source: str, batch: pl.DataFrame, types: Types, identify: _Identities, report: Report
) -> tuple[list[tuple[bytes, bytes]], list[DeadLetter]]:
    """(key, value) of the rows that are events, and letters for those that the consumer would refuse."""
    records, letters = [], []
    names = batch.columns[len(COLUMNS) :]
    now_ms = time.time_ns() // 1_000_000
    for user_id, item_id, said, value, moment_us, line, *context in batch.iter_rows():
        kind = types[said]
        if kind is None:
            report.left_out[said] += 1
            continue
        if value is not None and kind not in VALUES:
            report.valueless[said] += 1
            value = None
        known = {name: cell for name, cell in zip(names, context, strict=True) if cell is not None}
        event = {
            "user_id": user_id,
            "item_id": item_id,
            "type": kind,
            "value": value,
            "timestamp_ms": moment_us // 1000,
            "context": known or None,
        }
        record = Record(0, line, encode(Event(event_id=identify(event), **event)), now_ms)
        try:
            admit(record)
        except EventError as error:
            letters.append(DeadLetter.of(source, record, error))
        else:
            records.append((user_id.encode(), record.value))
    return records, letters


def _absent(records: Sequence[tuple[bytes, bytes]], there: UInt64) -> list[tuple[bytes, bytes]]:
    """The records that the log does not have."""
    if not len(there):
        return list(records)
    marks = np.array([int(value[_MARK], 16) for _, value in records], np.uint64)
    at = np.searchsorted(there, marks)
    absent: Bool = there[np.minimum(at, len(there) - 1)] != marks
    return [record for record, is_absent in zip(records, absent.tolist(), strict=True) if is_absent]


def _refuse(report: Report, letters: list[DeadLetter], dead: Sink | None) -> None:
    report.refused.update(letter.field for letter in letters)
    if dead is not None and letters:
        bury(dead, letters)


def _check_room(sink: Sink, records: Sequence[tuple[bytes, bytes]], rows: int, tell: Callable[[str], object]) -> None:
    """Say so where a folder would delete the oldest rows before the last are in it."""
    size = rows * sum(len(value) + HEADER_BYTES for _, value in records) / len(records)
    if isinstance(sink, LocalLog) and size > RETENTION_BYTES:
        tell(
            f"these rows take about {size / 2**30:.1f} GiB and a folder keeps the newest {RETENTION_BYTES / 2**30:g}: "
            "have a consumer run meanwhile, or import into Kafka"
        )


def _batches(letters: Iterator[DeadLetter]) -> Iterator[list[DeadLetter]]:
    batch: list[DeadLetter] = []
    for letter in letters:
        batch.append(letter)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} ({count:,} rows)" for name, count in counts.items())
