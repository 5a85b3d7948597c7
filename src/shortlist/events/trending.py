"""What is taken to now: positive events of each item in two sliding windows, for people of whom nothing is known.

A window is a half-life: an event counts half after an hour in one, after a day in the other. The counts of a partition
are a function of its events in their order, so a replay gives the same; of items beyond KEPT those with the smallest
counts are forgotten, and begin again. They lie in the store's hash `sl:trending`, a JSON document a partition, written
now and then: a consumer that is killed loses what it counted since. One that nobody can read counts nothing. What is
made of them is for `shortlist.stages.trends`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from shortlist.events.items import TRENDING
from shortlist.profiles.state import POSITIVE, weight

if TYPE_CHECKING:
    from shortlist.events.schema import Event
    from shortlist.events.transport import Record
    from shortlist.profiles.store import ProfileStore

HALF_LIVES_S = (3600, 86_400)
KEPT = 1000  # items of a partition, between twice as many and this
WRITTEN_EVERY_S = 5.0
_FARTHEST = 40  # half-lives from the reference time to the newest event, before that is moved


class Trends:
    """The counts of one partition. `total` is that of all items, forgotten ones too."""

    def __init__(self) -> None:
        self.offset = 0  # the first event that is not counted
        self._reference_ms = 0  # counts are in units of an event of this time
        self._items: dict[str, list[float]] = {}  # a count for each window
        self._totals = [0.0] * len(HALF_LIVES_S)

    def add(self, event: Event, appended_ms: int) -> None:
        """Count an event, if it is a positive one; a time to come is the time when the log took it."""
        if weight(event.type, event.value) < POSITIVE:
            return
        moment_ms = min(event.timestamp_ms, appended_ms)
        self._move(moment_ms)
        counts = self._items.get(event.item_id)
        if counts is None:
            counts = self._items[event.item_id] = [0.0] * len(HALF_LIVES_S)
        for window, half_life in enumerate(HALF_LIVES_S):
            worth = 2.0 ** max(-1000.0, (moment_ms - self._reference_ms) / (1000 * half_life))
            counts[window] += worth
            self._totals[window] += worth
        if len(self._items) >= 2 * KEPT:
            self._forget()

    def document(self) -> dict[str, Any]:
        """The counts as JSON: of each item in each window, and the totals, at the time `at_ms`; strongest first."""
        strongest = sorted(self._items.items(), key=lambda pair: (-pair[1][-1], pair[0]))
        return {
            "offset": self.offset,
            "half_lives_s": list(HALF_LIVES_S),
            "at_ms": self._reference_ms,
            "totals": self._totals,
            "items": [[item_id, *counts] for item_id, counts in strongest],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Trends:
        """The counts that `document` gave, in every bit."""
        trends = cls()
        trends.offset, trends._reference_ms = document["offset"], document["at_ms"]
        trends._totals = [*document["totals"]]
        trends._items = {item_id: counts for item_id, *counts in document["items"]}
        return trends

    def _move(self, moment_ms: int) -> None:
        """Bring the reference time near `moment_ms`, by whole half-lives of every window: halving rounds nothing."""
        step_ms = 1000 * math.lcm(*HALF_LIVES_S)
        if not self._items:
            self._reference_ms = moment_ms // step_ms * step_ms
        steps = (moment_ms - self._reference_ms) // step_ms
        if steps * step_ms <= 1000 * _FARTHEST * min(HALF_LIVES_S):
            return
        self._reference_ms += steps * step_ms
        halved = [math.ldexp(1.0, max(-1074, -steps * step_ms // (1000 * life))) for life in HALF_LIVES_S]
        for counts in (*self._items.values(), self._totals):
            counts[:] = [count * factor for count, factor in zip(counts, halved, strict=True)]

    def _forget(self) -> None:
        """Keep the strongest by the shorter or the longer window, half of KEPT by each at least."""
        kept: dict[str, list[float]] = {}
        for window in range(len(HALF_LIVES_S)):
            order = sorted(self._items.items(), key=lambda pair: (-pair[1][window], pair[0]))
            kept |= order[: KEPT // len(HALF_LIVES_S)]
        self._items = {item_id: counts for item_id, counts in self._items.items() if item_id in kept}


def readable(documents: Iterable[bytes]) -> list[dict[str, Any]]:
    """Those that a consumer of this version has written."""
    found = []
    for document in documents:
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            read = json.loads(document)
            counts = [read["totals"], *(own for _, *own in read["items"])]
            named = all(item_id.encode() for item_id, *_ in read["items"])
            finite = [math.isfinite(number) for number in (read["offset"], read["at_ms"], *chain(*counts))]
            if (
                tuple(read["half_lives_s"]) == HALF_LIVES_S
                and {*map(len, counts)} == {len(HALF_LIVES_S)}
                and all(finite)
                and named
            ):
                found.append(read)
    return found


class TrendKeeper:
    """The trends of a consumer's partitions, and their place in the store."""

    def __init__(self, store: ProfileStore, log: str) -> None:
        self._store, self._log = store, log
        self._trends: dict[int, Trends] = {}
        self._news: set[int] = set()  # partitions that changed since they were written
        self._written = 0.0

    def place(self, partition: int, offset: int | None) -> None:
        """Go on with `partition` from what is in the store; from nothing where that is of another log's time."""
        held = self._store.command("HGET", TRENDING, self._field(partition))
        found = next(map(Trends.of, readable([held] if held else [])), Trends())
        self._trends[partition] = found if offset is not None and found.offset <= offset else Trends()

    def add(self, record: Record, event: Event) -> None:
        """Count an event that is about to be committed; if it is not, `place` comes next."""
        self._trends[record.partition].add(event, record.appended_ms)

    def committed(self, partition: int, offset: int) -> None:
        """What was added is in the profiles, up to `offset`."""
        self._trends[partition].offset = offset
        self._news.add(partition)

    def write(self, partitions: Collection[int], every_s: float = WRITTEN_EVERY_S) -> None:
        """Put what is new of these partitions into the store, every so often. Raises StoreError."""
        ours = sorted(self._news.intersection(partitions))
        if not ours or time.monotonic() < self._written + every_s:
            return
        told = [word for p in ours for word in (self._field(p), json.dumps(self._trends[p].document()))]
        self._store.command("HSET", TRENDING, *told)
        self._written = time.monotonic()
        self._news.clear()

    def _field(self, partition: int) -> str:
        return f"{self._log}:{partition}"
