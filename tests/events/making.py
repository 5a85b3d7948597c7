"""Events for tests."""

from typing import Any

from shortlist.events.schema import Event, encode

NOON_MS = 1_700_000_000_000


def event(number: int = 0, **changes: Any) -> Event:
    """A good event; `number` makes it another one."""
    fields = {"event_id": f"e{number}", "user_id": "ann", "item_id": "i1", "type": "click", "timestamp_ms": NOON_MS}
    return Event(**{**fields, **changes})


def keyed(*events: Event) -> list[tuple[bytes, bytes]]:
    """As a sink takes them."""
    return [(e.user_id.encode(), encode(e)) for e in events]
