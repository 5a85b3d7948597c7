"""Turns the log into live profiles: a batch of events, one read and one commit of the store, again.

The store's offset is the truth. A profile and the offset it includes change together, so whatever is killed, the next
start goes on where the profiles stand. What an event changes is for `profiles.state`, how it arrives for `transport`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from shortlist.events.dead_letters import DeadLetter, bury
from shortlist.events.meters import Meters
from shortlist.events.schema import Event, EventError
from shortlist.events.transport import OffsetError, Record, Sink, Source, TransportError
from shortlist.events.trending import TrendKeeper
from shortlist.profiles.admission import admit
from shortlist.profiles.layout import pack, unpack
from shortlist.profiles.state import LATENESS_S, Facts, Moved, Profile, step, unmoved
from shortlist.profiles.store import ProfileStore, StoreError

NEEDS_OPERATOR = 3  # exit status of a command whose next start would end for the same reason, until somebody acts
BATCH = 500  # events; a commit of so many keeps the store busy for a few ms, which requests have to wait for
CACHED = 100_000  # profiles kept between batches, some 3 KB each for active users
_POLL_S = 0.5
_LAG_S = 5.0  # between two questions to the log how long it is
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0  # while the store or the log does not answer: the first, and after some


class Consumer:
    """One reader of a log's partitions and the only writer of their users' profiles."""

    def __init__(
        self,
        source: Source,
        store: ProfileStore,
        facts: Facts,
        dead: Sink | None = None,
        meters: Meters | None = None,
        tell: Callable[[str], None] = lambda line: None,
        batch: int = BATCH,
        cached: int = CACHED,
        moved: Moved = unmoved,
    ) -> None:
        """Refused events go to `dead`, or are only counted; `tell` gets a line when something stops or goes on.

        `moved` adds to a profile what `state` does not know of: `profiles.drift`.
        """
        self.meters = meters or Meters()
        self._source, self._store, self._facts, self._dead, self._tell = source, store, facts, dead, tell
        self._batch, self._cached, self._moved = batch, cached, moved
        self._stop = threading.Event()
        self._profiles: OrderedDict[bytes, Profile] = OrderedDict()  # as committed, the longest untouched first
        self._next: dict[int, int | None] = {}  # by partition: the store's offset, None where it has none
        self._measured = 0.0
        self._trends = TrendKeeper(store, source.name)
        source.on_assigned(self._place)  # others may have moved them on

    def run(self, until: Mapping[int, int] | None = None) -> None:
        """Consume until `stop`, or to the offsets `until`; a store or a log that does not answer is waited for.

        Raises OffsetError where the log lacks what comes next, DataError where the store has a profile that cannot be
        read: whoever starts it again meets the same, until somebody has seen to it.
        """
        placed, pause = False, 0.0
        while not self._stop.is_set() and not self._reached(until):
            try:
                if not placed:
                    self._place(self._source.assigned())
                placed = self._turn()
                if pause:
                    self._tell("going on")
                pause = 0.0
            except OffsetError:
                raise
            except (StoreError, TransportError) as error:
                placed, pause = False, min(max(2 * pause, _PAUSE_S), _LONGEST_PAUSE_S)
                self.meters.failures += 1
                self._tell(f"{error}; trying again in {pause:g} s")
                self._stop.wait(pause)
        with contextlib.suppress(StoreError):
            self._trends.write(self._source.assigned(), every_s=0)

    def stop(self) -> None:
        """Have `run` return after its batch; from any thread or a signal."""
        self._stop.set()

    def _place(self, partitions: frozenset[int]) -> None:
        """Go where the store says; to the log's beginning where it knows nothing, or lost its memory."""
        self._profiles.clear()
        begin = self._source.begin() if partitions else {}
        for partition in sorted(partitions):
            stored = self._store.offset(self._source.name, partition)
            self._source.seek(partition, begin[partition] if stored is None else stored)
            self._next[partition] = stored
            self._trends.place(partition, stored)

    def _turn(self) -> bool:
        """One batch; False when the store is not where we left it."""
        records = self._source.poll(self._batch, _POLL_S)
        stands = self._take(records) if records else self._stands()
        if not stands:
            self.meters.refused_commits += 1
            self._tell(f"{self._source.name}: the store's offset is not ours any more; going there")
        self._trends.write(self._source.assigned())
        self._measure()
        return stands

    def _take(self, records: Sequence[Record]) -> bool:
        """Apply and commit a batch, a partition at a time; False when the store refuses."""
        by_partition = groupby(sorted(records, key=lambda r: r.partition), key=lambda r: r.partition)
        return all(self._commit(partition, list(some)) for partition, some in by_partition)

    def _stands(self) -> bool:
        """Whether the store is where we left it: one that lost its memory is noticed without an event, too."""
        return all(self._store.offset(self._source.name, p) == self._next.get(p) for p in self._source.assigned())

    def _commit(self, partition: int, records: list[Record]) -> bool:
        outcomes: Counter[str] = Counter()
        letters: list[DeadLetter] = []
        events = self._read(records, letters)
        self._fetch({event.user_id.encode() for _, event in events})
        touched = self._apply(events, letters, outcomes)
        if letters and self._dead is not None:
            bury(self._dead, letters)
        following = records[-1].offset + 1
        blobs = {user: pack(profile) for user, profile in touched.items()}
        if not self._store.commit(self._source.name, partition, self._next[partition], following, blobs):
            return False
        self._next[partition] = following
        self._trends.committed(partition, following)
        self._keep(touched)
        outcomes["refused"] = len(records) - len(events)
        self.meters.committed(records, outcomes, len(touched))
        return True

    def _read(self, records: Sequence[Record], letters: list[DeadLetter]) -> list[tuple[Record, Event]]:
        """The records that are events; the others are added to `letters`."""
        events = []
        for record in records:
            try:
                events.append((record, admit(record)))
            except EventError as error:
                letters.append(DeadLetter.of(self._source.name, record, error))
        return events

    def _fetch(self, users: set[bytes]) -> None:
        """Get the profiles of `users` that are not cached, in one round trip."""
        missing = sorted(users - self._profiles.keys())
        for user, blob in zip(missing, self._store.read(missing), strict=True):
            if blob is not None:
                self._profiles[user] = unpack(blob)

    def _apply(
        self, events: Sequence[tuple[Record, Event]], letters: list[DeadLetter], outcomes: Counter[str]
    ) -> dict[bytes, Profile]:
        """The profiles that `events` change; late ones are added to `letters`."""
        touched: dict[bytes, Profile] = {}
        for record, event in events:
            user = event.user_id.encode()
            before = touched.get(user) or self._profiles.get(user)
            profile, refusal = step(before, event, self._facts)
            outcomes[refusal or "applied"] += 1
            if refusal is None:
                touched[user] = self._moved(before, profile, event)
                self._trends.add(record, event)
            elif refusal == "late":
                letters.append(DeadLetter.of(self._source.name, record, _late(event, profile)))
        return touched

    def _keep(self, touched: dict[bytes, Profile]) -> None:
        for user, profile in touched.items():
            self._profiles[user] = profile
            self._profiles.move_to_end(user)
        while len(self._profiles) > self._cached:
            self._profiles.popitem(last=False)

    def _measure(self) -> None:
        if time.monotonic() >= self._measured + _LAG_S:
            self._measured = time.monotonic()
            ends = self._source.ends()
            self.meters.lag = {p: ends[p] - (self._next.get(p) or 0) for p in self._source.assigned()}

    def _reached(self, until: Mapping[int, int] | None) -> bool:
        return until is not None and all((self._next.get(p) or 0) >= end for p, end in until.items())


def _late(event: Event, profile: Profile) -> EventError:
    allowed = (
        f"the user's newest event is of {profile.updated_ms}; up to {LATENESS_S // 3600} h older is allowed, and not "
        "older than all of a full history"
    )
    return EventError("timestamp_ms", event.timestamp_ms, allowed)
