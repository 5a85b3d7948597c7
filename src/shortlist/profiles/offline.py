"""Profiles computed from a log alone, and the check that a store holds the same.

The consumer does the same live, with `state.step` as the one judge of what an event changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shortlist.events.schema import EventError
from shortlist.events.transport import TransportError
from shortlist.profiles.admission import admit
from shortlist.profiles.layout import pack
from shortlist.profiles.state import Facts, Moved, Profile, step, unmoved

if TYPE_CHECKING:
    from shortlist.events.transport import Record, Source
    from shortlist.profiles.store import ProfileStore

_BATCH = 1000
_PATIENCE_S = 30.0  # that a log may be silent before its end


@dataclass
class Fold:
    """Profiles of a log's users so far, and where it goes on: all in memory, some 3 KB for an active user."""

    source: Source
    facts: Facts
    moved: Moved = unmoved
    profiles: dict[bytes, Profile] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)

    def up_to(self, ends: Mapping[int, int]) -> None:
        """Apply the records before `ends` of each partition. Raises TransportError when the log does not give them."""
        for record in read(self.source, self.next, ends):
            try:
                event = admit(record)
            except EventError:
                continue
            user = event.user_id.encode()
            before = self.profiles.get(user)
            profile, refusal = step(before, event, self.facts)
            self.profiles[user] = profile if refusal else self.moved(before, profile, event)
        self.next.update(ends)


@dataclass(frozen=True)
class Comparison:
    """Users whose stored profile equals the log's, byte by byte, and those whose does not."""

    equal: int
    different: list[bytes]
    unknown: list[bytes]  # in the store, not in the log


def read(source: Source, starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[Record]:
    """Records from `starts` (by default the beginning) to before `ends` of the partitions named there."""
    begin = source.begin()
    left = {p: end for p, end in ends.items() if starts.get(p, begin[p]) < end}
    for partition in source.assigned():
        source.seek(partition, starts.get(partition, begin[partition]))
    heard = time.monotonic()
    while left:
        records = source.poll(_BATCH, 1.0)
        if records:
            heard = time.monotonic()
        elif time.monotonic() - heard > _PATIENCE_S:
            raise TransportError(f"{source.name}: silent for {_PATIENCE_S:g} s before {left}; is the log running?")
        for record in records:
            end = left.get(record.partition, 0)
            if record.offset < end:
                yield record
            if record.offset >= end - 1:
                left.pop(record.partition, None)


def compare(source: Source, store: ProfileStore, facts: Facts, then: Moved = unmoved) -> Comparison:
    """Compute every profile from the log, as far as the store went, and compare all; a live store is followed.

    Raises TransportError, StoreError, OffsetError.
    """
    fold = Fold(source, facts, then)
    ends = _offsets(source, store)
    fold.up_to(ends)
    pending = everybody = sorted({*fold.profiles, *store.users()})
    while pending := list(_different(pending, fold, store)):
        moved = _offsets(source, store)
        if moved == ends:
            break
        fold.up_to(ends := moved)
    different = [user for user in pending if user in fold.profiles]
    return Comparison(len(everybody) - len(pending), different, sorted({*pending} - {*different}))


def _offsets(source: Source, store: ProfileStore) -> dict[int, int]:
    return {p: store.offset(source.name, p) or first for p, first in source.begin().items()}


def _different(users: list[bytes], fold: Fold, store: ProfileStore) -> Iterator[bytes]:
    for start in range(0, len(users), _BATCH):
        some = users[start : start + _BATCH]
        for user, blob in zip(some, store.read(some), strict=True):
            profile = fold.profiles.get(user)
            if blob != (profile and pack(profile)):
                yield user
