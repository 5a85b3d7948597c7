import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shortlist.events
from shortlist.events.schema import LARGEST, LATEST_MS, MAX_BYTES, EventError, encode, json_schema, parse
from tests.events.making import event

GOOD = {
    "event_id": "e",
    "user_id": "u",
    "item_id": "i",
    "type": "dwell",
    "value": 2.5,
    "timestamp_ms": 1_700_000_000_000,
}
VALIDATOR = jsonschema.Draft202012Validator(json_schema())

texts = st.text(max_size=3) | st.sampled_from(["x" * n for n in (32, 33, 64, 65, 256, 257)]) | st.just("😀" * 64)
numbers = (
    st.sampled_from(
        [0, -1, 1, 5, 6, 0.0, 1.0, 1.5, 86_400, 86_401, LATEST_MS, LATEST_MS + 1, LARGEST, LARGEST + 1, 1e300]
    )
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
scalars = st.none() | st.booleans() | numbers | texts
contexts = st.dictionaries(texts, scalars, max_size=3) | st.integers(15, 18).map(
    lambda n: {str(i): i for i in range(n)}
)
anything = scalars | contexts | st.lists(scalars, max_size=2)
types = st.sampled_from(["click", "view", "dwell", "like", "dislike", "skip", "share", "rating", "buy"])
changes = st.fixed_dictionaries(
    {},
    optional={
        "event_id": anything,
        "user_id": anything,
        "item_id": anything,
        "type": types | anything,
        "value": anything,
        "timestamp_ms": anything,
        "session_id": anything,
        "context": contexts | anything,
        "imputed": st.sampled_from(["mean", "median", "user_mean", "knn"]) | anything,
        "price": anything,
    },
)


def _accepted(document: Any) -> bool:
    try:
        parse(json.dumps(document).encode())
    except EventError:
        return False
    return True


@given(changes=changes, absent=st.sets(st.sampled_from(sorted(GOOD)), max_size=1))
def test_the_compiled_validator_and_the_published_schema_agree(changes: dict[str, Any], absent: set[str]) -> None:
    document = {name: value for name, value in {**GOOD, **changes}.items() if name not in absent}
    assert _accepted(document) == VALIDATOR.is_valid(document)


@given(changes=changes.map(lambda some: dict(list(some.items())[:1])))
def test_they_agree_on_every_single_field(changes: dict[str, Any]) -> None:
    assert _accepted({**GOOD, **changes}) == VALIDATOR.is_valid({**GOOD, **changes})


@given(document=anything)
def test_they_agree_that_only_objects_are_events(document: Any) -> None:
    assert _accepted(document) == VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "path",
    [
        Path(shortlist.events.__file__).parent / "event.schema.json",
        Path(__file__).parents[2] / "docs/event.schema.json",
    ],
    ids=["packaged", "docs"],
)
def test_the_published_schema_is_that_of_the_code(path: Path) -> None:
    assert json.loads(path.read_text()) == json_schema()


@given(raw=st.binary(max_size=200) | st.text(alphabet='{}[]":,e1', max_size=40).map(str.encode))
def test_bytes_that_are_no_event_are_refused_as_such(raw: bytes) -> None:
    with pytest.raises(EventError):
        parse(raw)


@pytest.mark.parametrize(
    "raw",
    [b"[" * 8000, b'{"a":' * 3000, b'{"context":' * 1000, b"\xff", b'{"user_id":"\\ud800"}', b'{"value":1e999}'],
    ids=["deep-list", "deep-object", "deep-context", "no-utf8", "half-a-surrogate", "too-large-a-number"],
)
def test_hostile_documents_are_refused_like_any_other(raw: bytes) -> None:
    with pytest.raises(EventError):
        parse(raw)


def test_an_event_beyond_the_largest_size_is_refused() -> None:
    raw = encode(event())
    with pytest.raises(EventError, match="at most 16384 bytes"):
        parse(raw[:-1] + b" " * MAX_BYTES + b"}")


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        ({"user_id": ""}, "user_id", "text of 1 to 64 characters"),
        ({"type": "buy"}, "type", "one of click, view"),
        ({"type": "rating", "value": 9}, "value", "1 to 5 stars"),
        ({"type": "click", "value": 1}, "value", "'click' null is allowed"),
        ({"timestamp_ms": -1}, "timestamp_ms", "whole milliseconds since 1970"),
        ({"price": 3}, "price", "no such field; the fields are event_id"),
        ({"context": {"a": [1]}}, "context", "at most 16 names"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_refusal_names_the_field_its_value_and_what_is_allowed(change: dict, field: str, allowed: str) -> None:
    with pytest.raises(EventError, match=allowed) as caught:
        parse(json.dumps({**GOOD, **change}).encode())
    assert (caught.value.field, caught.value.value) == (field, change.get(field))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(EventError, match="item_id = None: is missing"):
        parse(json.dumps({name: value for name, value in GOOD.items() if name != "item_id"}).encode())


def test_what_is_encoded_comes_back_the_same() -> None:
    original = event(type="dwell", value=3.5, session_id="s", context={"device": "phone", "hour": 14, "new": True})
    assert parse(encode(original)) == original
