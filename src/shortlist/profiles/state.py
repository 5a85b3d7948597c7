"""A user's live profile, and how one event moves it on: pure functions, the same for the consumer, a replay, an export.

A profile is kept as it is stored, in columns of bytes, so that any way of cutting a log into batches gives the same
bits. How the columns lie in one blob is for `layout`, where the blobs live for `store`.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import compress
from typing import TYPE_CHECKING, Literal

import msgspec

from shortlist.profiles.affinity import Affinities

if TYPE_CHECKING:
    from shortlist.events.schema import Event

Facts = Callable[[bytes], Sequence[bytes]]  # categories of an item, by its id; none when it is not known
Refusal = Literal["late", "duplicate"]

TYPES = ("click", "view", "dwell", "like", "dislike", "skip", "share", "rating")
HISTORY = 200  # newest events kept
LATENESS_S = 24 * 3600  # an event this much older than the newest of its user is not applied
RETENTION_S = 90 * 24 * 3600  # after so long a silence a user is new again
SESSION_GAP_S = 30 * 60  # a silence that ends a session, where events do not name theirs
HALF_LIFE_S = 30 * 24 * 3600
SESSION_HALF_LIFE_S = 30 * 60
DISLIKED = 100  # newest dislikes kept
CONTEXT = 512  # bytes of a context's JSON that are kept; a larger one is passed over
POSITIVE = 0.5  # weight from which an event says that the user wanted the item

END = b"\xff"  # ends an id in a column of ids; UTF-8 never has this byte
MARK = 6  # bytes kept of an event id's hash: two ids of one user are taken for one with a chance below 2^-40
LIKED = 0x80  # bit of a kind: the event was positive
_KIND = {name: code for code, name in enumerate(TYPES)}
_IS_LIKED = bytes(code >> 7 for code in range(256))
_SECOND, _MILLI, _VALUE = struct.Struct("<I"), struct.Struct("<H"), struct.Struct("<e")
_NO_VALUE = _VALUE.pack(float("nan"))
_LARGEST_VALUE = 65504.0


class Session(msgspec.Struct, frozen=True):
    """What the user did since they came: `id` is empty where events do not name their session."""

    id: bytes = b""
    started_ms: int = 0
    events: int = 0
    affinities: Affinities = Affinities()


class Profile(msgspec.Struct, frozen=True):
    """What a user's events say, N of them in time order, oldest first; columns are little-endian bytes."""

    version: int = 0  # events applied ever
    updated_ms: int = 0  # timestamp of the newest event
    counters: tuple[int, ...] = (0,) * len(TYPES)  # events applied, by type
    kinds: bytes = b""  # u8[N] code of the type, with the bit LIKED
    seconds: bytes = b""  # u32[N]
    millis: bytes = b""  # u16[N]
    values: bytes = b""  # f16[N], NaN where an event has none
    items: bytes = b""  # N ids, each ended by END
    seen: bytes = b""  # u8[M, MARK] hashes of the last M events' ids: those that are not older than LATENESS_S
    disliked_items: bytes = b""  # ids, each ended by END, the latest last
    affinities: Affinities = Affinities()
    session: Session = Session()
    context: bytes = b""  # JSON object, the last that came with an event
    vector: bytes = b""  # f32[D], where something computes one
    vector_bundle: bytes = b""  # version of the bundle whose space the vector lives in

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def history(self) -> tuple[tuple[bytes, str, float | None, int], ...]:
        """(item id, type, value, timestamp_ms) of the newest events, oldest first. A value has three digits or so."""
        values = (v[0] for v in _VALUE.iter_unpack(self.values))
        return tuple(
            (item, TYPES[kind & ~LIKED], None if value != value else value, moment)
            for item, kind, value, moment in zip(ids(self.items), self.kinds, values, self.moments, strict=True)
        )

    @property
    def moments(self) -> list[int]:
        """timestamp_ms of the newest events, oldest first."""
        halves = zip(memoryview(self.seconds).cast("I"), memoryview(self.millis).cast("H"), strict=True)
        return [second * 1000 + milli for second, milli in halves]

    @property
    def disliked(self) -> list[bytes]:
        """Items whose last word from the user was a dislike, the latest last."""
        return ids(self.disliked_items)

    def counts(self) -> dict[str, int]:
        """Events applied ever, by type."""
        return dict(zip(TYPES, self.counters, strict=True))

    def seen_since(self, until_ms: int) -> list[bytes]:
        """Items of positive events newer than `until_ms`, oldest first; a run of events on one item is one."""
        return positives(self.kinds, memoryview(self.seconds), memoryview(self.millis), self.items, until_ms)


EMPTY = Profile()
Moved = Callable[[Profile | None, Profile, "Event"], Profile]
"""What more an applied event does: from the profile before it, the one that `step` made of that, and the event."""


def unmoved(_before: Profile | None, after: Profile, _event: Event) -> Profile:
    """Nothing more."""
    return after


def apply(profile: Profile | None, event: Event, facts: Facts) -> Profile:
    """The profile after `event`; the same profile when the event is late or was applied before."""
    return step(profile, event, facts)[0]


def step(profile: Profile | None, event: Event, facts: Facts) -> tuple[Profile, Refusal | None]:
    """`apply`, and why the event was not applied.

    "late": older than the user's newest event by more than LATENESS_S, or older than all of a full history, so that
    nobody knows any more whether it was applied. "duplicate": an event of this id is among those not late.
    """
    now = event.timestamp_ms
    base = EMPTY if profile is None or now - profile.updated_ms > RETENTION_S * 1000 else profile
    place = _place(base, now)
    if place < len(base) and _is_late(base, now):
        return base, "late"
    mark = blake2b(event.event_id.encode(), digest_size=MARK).digest()
    if _holds(base.seen, mark):
        return base, "duplicate"
    return _applied(base, event, mark, place, facts), None


def positives(kinds: bytes, seconds: memoryview, millis: memoryview, items: bytes, until_ms: int) -> list[bytes]:
    """Items of the positive events newer than `until_ms` in columns of N events, a run on one item once."""
    start = _after(seconds, millis, until_ms)
    liked = list(compress(items.split(END)[start:], kinds[start:].translate(_IS_LIKED)))
    return [item for item, before in zip(liked, [b"", *liked], strict=False) if item != before]


def ids(column: bytes) -> list[bytes]:
    """The ids of a column."""
    return column.split(END)[:-1]


def weight(type_: str, value: float | None) -> float:
    """How much an event says for its item: -3 (disliked) to 4 (shared)."""
    match type_:
        case "view":
            return 0.5 if value is None else 0.25 + 0.75 * value
        case "dwell":
            return 0.5 if value is None else min(value, 60.0) / 30
        case "rating":
            return 0.0 if value is None else value - 3
        case _:
            return {"click": 1.0, "like": 3.0, "dislike": -3.0, "skip": -0.5, "share": 4.0}[type_]


def _after(seconds: memoryview, millis: memoryview, moment_ms: int) -> int:
    """How many events are not newer than `moment_ms`."""
    second, milli = divmod(moment_ms, 1000)
    column = seconds.cast("I")
    if not column or second < column[0]:  # as most requests ask: all is news
        return 0
    first, stop = bisect_left(column, second), bisect_right(column, second)
    return bisect_right(millis.cast("H"), milli, first, stop)


def _place(profile: Profile, moment_ms: int) -> int:
    if moment_ms >= profile.updated_ms:
        return len(profile)
    return _after(memoryview(profile.seconds), memoryview(profile.millis), moment_ms)


def _is_late(profile: Profile, moment_ms: int) -> bool:
    """Of an event that is not the newest."""
    if moment_ms // 1000 < profile.updated_ms // 1000 - LATENESS_S:
        return True
    return (
        len(profile) == HISTORY
        and moment_ms <= _SECOND.unpack_from(profile.seconds)[0] * 1000 + (_MILLI.unpack_from(profile.millis)[0])
    )


def _holds(seen: bytes, mark: bytes) -> bool:
    at = seen.find(mark)
    while at > 0 and at % MARK:
        at = seen.find(mark, at + 1)
    return at >= 0


def _applied(base: Profile, event: Event, mark: bytes, place: int, facts: Facts) -> Profile:
    now, item = event.timestamp_ms, event.item_id.encode()
    felt, categories = weight(event.type, event.value), facts(item)
    code = _KIND[event.type]
    second, milli = divmod(now, 1000)
    drop = len(base) == HISTORY  # the oldest makes room
    value = _NO_VALUE if event.value is None else _VALUE.pack(min(event.value, _LARGEST_VALUE))
    kind = (code | LIKED if felt >= POSITIVE else code).to_bytes()
    return Profile(
        version=base.version + 1,
        updated_ms=max(now, base.updated_ms),
        counters=(*base.counters[:code], base.counters[code] + 1, *base.counters[code + 1 :]),
        kinds=_inserted(base.kinds, place, kind, drop),
        seconds=_inserted(base.seconds, place, _SECOND.pack(second), drop),
        millis=_inserted(base.millis, place, _MILLI.pack(milli), drop),
        values=_inserted(base.values, place, value, drop),
        items=_with_item(base.items, place - len(base), item, drop),
        seen=_with_mark(base, place, mark, now, drop),
        disliked_items=_judged(base.disliked_items, event.type, felt, item),
        affinities=base.affinities.moved(categories, felt, second, HALF_LIFE_S),
        session=_session(base, event, categories, felt),
        context=_context(base, event),
        vector=base.vector,
        vector_bundle=base.vector_bundle,
    )


def _inserted(column: bytes, place: int, value: bytes, drop: bool) -> bytes:
    width = len(value)
    at = place * width
    return column[width * drop : at] + value + column[at:]


def _with_item(items: bytes, from_end: int, item: bytes, drop: bool) -> bytes:
    """`items` with one more, before the last -`from_end` of them."""
    start = items.index(END) + 1 if drop else 0
    at = len(items)
    for _ in range(-from_end):
        at = items.rfind(END, 0, at - 1) + 1
    return items[start:at] + item + END + items[at:]


def _with_mark(base: Profile, place: int, mark: bytes, now: int, drop: bool) -> bytes:
    """Marks of the events that are not late from now on."""
    first = len(base) - len(base.seen) // MARK  # the event of the first mark
    start = max(first, int(drop))
    if place == len(base):
        start = bisect_left(memoryview(base.seconds).cast("I"), now // 1000 - LATENESS_S, start)
    at = (place - first) * MARK
    return base.seen[(start - first) * MARK : at] + mark + base.seen[at:]


def _judged(disliked: bytes, type_: str, felt: float, item: bytes) -> bytes:
    """A dislike stands until something said more for the item than a click."""
    if type_ != "dislike" and (felt <= 1 or not disliked):
        return disliked
    kept = [other for other in ids(disliked) if other != item]
    if type_ == "dislike":
        kept = [*kept, item][-DISLIKED:]
    return b"".join(other + END for other in kept)


def _context(base: Profile, event: Event) -> bytes:
    context = msgspec.json.encode(event.context, order="sorted") if event.context else b""
    return context if 0 < len(context) <= CONTEXT else base.context


def _session(base: Profile, event: Event, categories: Sequence[bytes], felt: float) -> Session:
    session, now = base.session, event.timestamp_ms
    named = (event.session_id or "").encode()
    if named and session.id:
        same = named == session.id
    else:
        gap = SESSION_GAP_S * 1000
        same = session.events > 0 and session.started_ms - gap <= now <= base.updated_ms + gap
    if not same:
        if now < base.updated_ms:
            return session  # of an earlier one
        session = Session(started_ms=now)
    return Session(
        named or session.id,
        min(session.started_ms, now),
        session.events + 1,
        session.affinities.moved(categories, felt, now // 1000, SESSION_HALF_LIFE_S),
    )
