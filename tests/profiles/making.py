"""Events to test profiles with."""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

from shortlist.events.schema import Event, encode
from shortlist.profiles.state import TYPES, Profile, apply

NOON = 1_700_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
CATEGORIES = {f"i{i}".encode(): (f"genre:{i % 5}".encode(), f"maker:{i % 3}".encode()) for i in range(50)}
_numbers = itertools.count()


def facts(item: bytes) -> tuple[bytes, ...]:
    """Two categories of each known item."""
    return CATEGORIES.get(item, ())


def event(item: str = "i1", type_: str = "click", at: int = NOON, **more: Any) -> Event:
    """An event of one user with an id of its own."""
    fields = {"event_id": f"e{next(_numbers)}", "user_id": "u", "item_id": item, "type": type_, "timestamp_ms": at}
    return Event(**(fields | more))


def profile_of(events: Iterable[Event], facts: Callable[[bytes], tuple[bytes, ...]] = facts) -> Profile:
    """The profile after all of them."""
    profile = None
    for one in events:
        profile = apply(profile, one, facts)
    assert profile is not None
    return profile


def stream(count: int, users: int, seed: int = 0, start: int = NOON) -> list[Event]:
    """Events of many users, 10 ms apart: out of order by up to 5 s, one in twenty sent twice, one in fifty late."""
    rng = random.Random(seed)
    events: list[Event] = []
    for i in range(count):
        if events and rng.random() < 0.05:
            events.append(rng.choice(events[-200:]))
            continue
        late = 2 * DAY if rng.random() < 0.02 else 0
        events.append(
            Event(
                event_id=f"{seed}-{i}",
                user_id=f"user{rng.randrange(users)}",
                item_id=f"i{rng.randrange(50)}",
                type=rng.choice(TYPES),
                timestamp_ms=start + i * 10 - rng.randrange(5000) - late,
                session_id=rng.choice([None, "morning", "evening"]),
                context={"device": rng.choice(["phone", "desktop"]), "hour": i % 24} if rng.random() < 0.5 else None,
            )
        )
    return events


def pairs(events: Iterable[Event]) -> list[tuple[bytes, bytes]]:
    """(key, value) to append to a log."""
    return [(one.user_id.encode(), encode(one)) for one in events]
