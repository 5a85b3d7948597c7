"""A log of events in which everything goes wrong: repetitions, late ones, clocks ahead, documents that are none."""

from pathlib import Path
from zlib import crc32

import numpy as np

from shortlist.attributes import DOCUMENT, Values, attribute_parts
from shortlist.bundle import write_bundle
from shortlist.catalog import IdMap
from shortlist.events.schema import Event, encode
from shortlist.events.transport import Record

TYPES = ("view", "view", "view", "view", "click", "click", "dwell", "like", "dislike", "skip", "share", "rating")
BEGAN_MS = 1_767_225_600_000  # 2026-01-01
DAY_MS = 86_400_000


def event(n: int, user: str, item: str, type_: str, timestamp_ms: int, value: float | None = None) -> Event:
    return Event(event_id=f"e{n}", user_id=user, item_id=item, type=type_, timestamp_ms=timestamp_ms, value=value)


def write_events(count: int, *, users: int = 60, items: int = 40, seed: int = 0) -> list[tuple[str, bytes, int]]:
    """`count` records (user, document, appended_ms) over some five days."""
    rng = np.random.default_rng(seed)
    records: list[tuple[str, bytes, int]] = []
    for n in range(count):
        now = BEGAN_MS + n * 5 * DAY_MS // count
        if records and rng.random() < 0.05:
            user, document, _ = records[rng.integers(max(0, len(records) - 200), len(records))]
        else:
            user, document = _document(rng, n, users, items, now)
        records.append((user, document, now))
    return records


def in_partitions(records: list[tuple[str, bytes, int]], partitions: int) -> list[Record]:
    """The same as a log keeps it: a user's records in one partition, offsets counted up."""
    ends = [0] * partitions
    kept = []
    for user, document, appended_ms in records:
        partition = crc32(user.encode()) % partitions
        kept.append(Record(partition, ends[partition], document, appended_ms))
        ends[partition] += 1
    return kept


def write_items(folder: Path, items: int = 40) -> Path:
    """A bundle that knows the categories of all items but the last."""
    names = ["drama", "comedy", "war", "crime"]
    rows = np.arange(items - 1)
    genres = Values.build(items, np.tile(rows, 2), np.concatenate([rows % 4, rows * rows % 3]), names)
    arrays, document = attribute_parts({"genre": genres})
    ids = IdMap.build([f"i{row}" for row in range(items)]).arrays("item")
    return write_bundle(folder, arrays={**ids, **arrays}, graphs={}, documents={DOCUMENT: document})


def _document(rng: np.random.Generator, n: int, users: int, items: int, now: int) -> tuple[str, bytes]:
    user = f"u{int(users * rng.random() ** 2)}"
    if rng.random() < 0.03:
        return user, rng.choice(
            [b"", b"{", b'{"user_id": "u1"}', b"\xff\xfe", encode(event(n, user, "", "click", now))]
        )
    ago = rng.exponential(DAY_MS / 4) if rng.random() < 0.2 else rng.exponential(5_000)
    ahead = 3_600_000 if rng.random() < 0.02 else 0
    type_ = TYPES[rng.integers(len(TYPES))]
    values = {"view": rng.random(), "dwell": 90 * rng.random(), "rating": float(rng.integers(1, 6))}
    item = f"i{int(items * rng.random() ** 2)}"
    return user, encode(event(n, user, item, type_, int(now - ago + ahead), values.get(type_)))
