"""One event: its fields and bounds, read from JSON by a compiled validator and published as a JSON Schema.

What `parse` lets through and what the published schema allows is the same set of documents. Whether an event is late or
a repetition is not said here: that takes a clock and a memory, see `quality` and the consumer.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from shortlist.errors import DataError, MissingExtraError

try:
    import msgspec
    from msgspec import Meta
except ImportError as error:
    raise MissingExtraError("msgspec", "stream") from error

MAX_BYTES = 16_384
MAX_ID_CHARACTERS = 64  # at most 256 bytes of UTF-8: what a request may name
MAX_CONTEXT = 16
MAX_TEXT = 256
LATEST_MS = 4_102_444_800_000  # the year 2100
LARGEST = 2**53  # beyond it JavaScript and others round

EventType = Literal["click", "view", "dwell", "like", "dislike", "skip", "share", "rating"]
Imputation = Literal["mean", "median", "user_mean", "knn"]
# What `value` means where a type has one: lowest, highest, unit.
VALUES: dict[str, tuple[float, float, str]] = {
    "dwell": (0.0, 86_400.0, "seconds"),
    "view": (0.0, 1.0, "depth of scrolling"),
    "rating": (1.0, 5.0, "stars"),
}

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
_Name = Annotated[str, Meta(min_length=1, max_length=32)]
_Scalar = (
    Annotated[str, Meta(max_length=MAX_TEXT)]
    | Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]
    | Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
    | bool
)
_ID_TEXT = f"text of 1 to {MAX_ID_CHARACTERS} characters"
_VALUE_TEXT = "; ".join(f"{name}: {low:g} to {high:g} {unit}" for name, (low, high, unit) in VALUES.items())


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One thing that one person did with one item."""

    event_id: Annotated[_Id, Meta(description=f"{_ID_TEXT}; the same again is the same event, sent twice")]
    user_id: Annotated[_Id, Meta(description=_ID_TEXT)]
    item_id: Annotated[_Id, Meta(description=_ID_TEXT)]
    type: Annotated[EventType, Meta(description="one of " + ", ".join(get_args(EventType)))]
    value: Annotated[
        float | None, Meta(description=f"a number or null, by type ({_VALUE_TEXT}); other types have none")
    ] = None
    timestamp_ms: Annotated[
        int,
        Meta(ge=0, le=LATEST_MS, description=f"when it happened: whole milliseconds since 1970 UTC, 0 to {LATEST_MS}"),
    ]
    session_id: Annotated[_Id | None, Meta(description=f"{_ID_TEXT}, or null")] = None
    context: Annotated[
        Annotated[dict[_Name, _Scalar], Meta(max_length=MAX_CONTEXT)] | None,
        Meta(
            description=f"null, or an object such as device, locale, hour: at most {MAX_CONTEXT} names of 1 to 32 "
            f"characters; text of at most {MAX_TEXT} characters, numbers within ±2^53, true, false"
        ),
    ] = None
    imputed: Annotated[
        Imputation | None,
        Meta(description="how a missing value was filled in, one of " + ", ".join(get_args(Imputation)) + ", or null"),
    ] = None


class EventError(DataError):
    """An event is refused: which field, its value, what is allowed."""

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        super().__init__(f"event: {field} = {_show(value)}: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def parse(raw: bytes) -> Event:
    """The event of a JSON document of at most MAX_BYTES bytes. Raises EventError, and nothing else."""
    if len(raw) > MAX_BYTES:
        raise EventError("event", raw[:64], f"at most {MAX_BYTES} bytes are allowed, this has {len(raw)}")
    try:
        event = _decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        event = _decode_again(raw, error)
    value = event.value
    if value is not None:
        bounds = VALUES.get(event.type)
        if bounds is None or not bounds[0] <= value <= bounds[1]:
            raise _value_refusal(event)
    return event


def encode(event: Event) -> bytes:
    """The JSON of an event, without the fields that say nothing. Nothing is checked here: `parse` does that."""
    return _encoder.encode(event)


def fill_in(event: Event, value: float, how: Imputation) -> Event:
    """`event` with a value that was missing."""
    return msgspec.structs.replace(event, value=value, imputed=how)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `parse` lets through."""
    document: dict[str, Any] = msgspec.json.schema(Event)["$defs"]["Event"]
    rules = [_rule([name], {"minimum": low, "maximum": high}) for name, (low, high, _) in VALUES.items()]
    without = [name for name in get_args(EventType) if name not in VALUES]
    rules.append(_rule(without, {"type": "null"}))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "allOf": rules}


def _rule(types: list[str], value: dict[str, Any]) -> dict[str, Any]:
    """What `value` must be of events of these types."""
    return {
        "if": {"properties": {"type": {"enum": types}}, "required": ["type"]},
        "then": {"properties": {"value": value}},
    }


def _decode_again(raw: bytes, error: Exception) -> Event:
    """Let 1.0 pass for a whole number, as JSON Schema does and some clients write it; refuse all else."""
    try:
        document = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        raise EventError("event", raw[:64], f"a JSON object in UTF-8 is allowed; {error}") from None
    if not isinstance(document, dict):
        raise EventError("event", document, "a JSON object is allowed")
    stamp = document.get("timestamp_ms")
    if isinstance(stamp, float) and stamp.is_integer():
        try:
            return msgspec.convert(document | {"timestamp_ms": int(stamp)}, Event)
        except msgspec.ValidationError as second:
            error = second
    raise _refusal(document, str(error))


def _refusal(document: dict[str, Any], message: str) -> EventError:
    """Names the field that msgspec's `message` speaks of."""
    allowed = _allowed()
    if named := re.search(r"(missing required|unknown) field `(.*)`", message, re.DOTALL):
        kind, field = named.groups()
        if kind == "unknown":
            return EventError(field, document.get(field), "no such field; the fields are " + ", ".join(allowed))
        return EventError(field, None, f"is missing; {allowed[field]}")
    path = re.search(r"`\$\.(\w+)", message)
    field = path[1] if path else "event"
    return EventError(field, document.get(field), allowed.get(field, message))


@cache
def _allowed() -> dict[str, str]:
    """What each field may hold, in words."""
    hints = get_type_hints(Event, include_extras=True)
    return {name: hints[name].__metadata__[-1].description for name in Event.__struct_fields__}


def _value_refusal(event: Event) -> EventError:
    bounds = VALUES.get(event.type)
    allowed = f"{bounds[0]:g} to {bounds[1]:g} {bounds[2]}, or null" if bounds else "null"
    return EventError("value", event.value, f"of type {event.type!r} {allowed} is allowed")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
