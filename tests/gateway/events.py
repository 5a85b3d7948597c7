"""Events and profiles as the tests send and store them."""

import time
from pathlib import Path
from typing import Any

from shortlist.events.local_source import LocalSource
from shortlist.events.schema import Event, parse
from shortlist.profiles.layout import pack, unpack
from shortlist.profiles.state import Profile, apply
from shortlist.profiles.store import ProfileStore


def event(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A valid event as JSON has it."""
    plain = {"event_id": f"event-{number}", "user_id": "anna", "item_id": "item-7", "type": "click"}
    return plain | {"timestamp_ms": time.time_ns() // 1_000_000} | fields


def logged(folder: Path) -> list[Event]:
    """What the log in a folder holds."""
    source = LocalSource(folder)
    records = source.poll(10_000, 0)
    source.close()
    return [parse(record.value) for record in records]


def put(store: ProfileStore, user: str, *items: str) -> Profile:
    """Have the store hold, and tell, that the user clicked on these items too."""
    blob = store.read([user.encode()])[0]
    profile = unpack(blob) if blob else Profile()
    for item in items:
        happened = event(user_id=user, item_id=item, event_id=f"{user}-{profile.version}")
        profile = apply(profile, Event(**happened), lambda _: [b"music"])
    offset = store.offset("test", 0)
    assert store.commit("test", 0, offset, (offset or 0) + 1, {user.encode(): pack(profile)})
    return profile
