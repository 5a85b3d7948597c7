"""Events that were refused, kept with the reason, so that nothing disappears without a trace.

They travel through any Sink: a topic of their own, or a folder of their own.
"""

from __future__ import annotations

import base64

from shortlist.errors import MissingExtraError
from shortlist.events.schema import EventError
from shortlist.events.transport import Record, Sink

try:
    import msgspec
except ImportError as error:
    raise MissingExtraError("msgspec", "stream") from error

MAX_KEPT = 16_384  # bytes of the refused document; more of it is cut off


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One refused record: where it lay, which field was wrong and why, and its bytes."""

    topic: str
    partition: int
    offset: int
    appended_ms: int
    field: str
    reason: str
    size: int  # bytes of the record
    raw: str | None = None  # its first MAX_KEPT bytes, when they are UTF-8
    raw_base64: str | None = None  # otherwise

    @classmethod
    def of(cls, topic: str, record: Record, error: EventError) -> DeadLetter:
        """What is to be kept of `record`, which `parse` refused with `error`."""
        kept = record.value[:MAX_KEPT]
        try:
            raw, coded = kept.decode(), None
        except UnicodeDecodeError:
            raw, coded = None, base64.b64encode(kept).decode()
        return cls(
            topic=topic,
            partition=record.partition,
            offset=record.offset,
            appended_ms=record.appended_ms,
            field=error.field,
            reason=str(error),
            size=len(record.value),
            raw=raw,
            raw_base64=coded,
        )

    @property
    def value(self) -> bytes:
        """The refused document, as far as it was kept."""
        return base64.b64decode(self.raw_base64) if self.raw_base64 is not None else (self.raw or "").encode()


def bury(sink: Sink, letters: list[DeadLetter]) -> None:
    """Append `letters` durably.

    A consumer that is killed before it commits buries them again: (topic, partition, offset) says which are the same.
    """
    sink.append([(f"{d.topic}:{d.partition}:{d.offset}".encode(), msgspec.json.encode(d)) for d in letters])


def read_letter(value: bytes) -> DeadLetter:
    """The dead letter of a record's value."""
    return msgspec.json.decode(value, type=DeadLetter)
