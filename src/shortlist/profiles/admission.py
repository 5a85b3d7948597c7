"""Which records of the log are events at all: the same answer whenever the record is read.

What an event changes, or that it comes too late, is for `state`.
"""

from __future__ import annotations

from shortlist.events.schema import Event, EventError, parse
from shortlist.events.transport import Record

AHEAD_MS = (
    5 * 60 * 1000
)  # of the log's clock; without a bound one wrong clock would make all later events of its user late


def admit(record: Record) -> Event:
    """The event of a record. Raises EventError where it is malformed, or from the future by the log's own clock."""
    event = parse(record.value)
    if event.timestamp_ms > record.appended_ms + AHEAD_MS:
        allowed = (
            f"at most {AHEAD_MS} after the log took it, {record.appended_ms}, is allowed; is the client's clock right?"
        )
        raise EventError("timestamp_ms", event.timestamp_ms, allowed)
    return event
