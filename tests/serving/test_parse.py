"""Request validation without a server: what is accepted, and what every refusal says."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import RequestError
from shortlist.serving.parse import field_of, parse_parameters, parse_request
from shortlist.serving.tensors import PARAMETERS
from shortlist.types import Request
from tests.serving.bad_requests import BAD_IDS, BAD_PARAMETERS

NOBODY = np.array([[b""]], np.object_)
NOTHING = np.empty((1, 0), np.object_)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


def ids(*values: bytes) -> Any:
    return np.array([values], np.object_)


def test_absent_parameters_leave_the_defaults() -> None:
    assert parse_request(NOBODY, NOTHING, NOTHING, "{}") == Request()


def test_every_field_arrives() -> None:
    parameters = {"k": 5, "diversity": 0.5, "context": '{"hour": 3}', "deadline_unix_us": 10**15, "trace": True}
    parameters["eligible"] = '{"locale": ["de"]}'
    request = parse_request(ids(b"u"), ids(b"a", b"b"), ids(b"c"), json.dumps(parameters))
    assert request == Request(b"u", (b"a", b"b"), (b"c",), 5, 0.5, {"hour": 3}, 10**15, True, {"locale": ["de"]})


@pytest.mark.parametrize("value", [0.25, "0.25", "2.5e-1"])
def test_diversity_may_come_as_double_or_string(value: object) -> None:
    assert parse_parameters(json.dumps({"diversity": value})) == {"diversity": 0.25}


def test_ids_may_be_any_utf8() -> None:
    assert parse_request(ids("é\n".encode()), NOTHING, NOTHING, "{}").user_id == "é\n".encode()


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_a_bad_parameter_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(RequestError, match=f"^{name} = .*{allowed}"):
        parse_parameters(json.dumps({name: value}))


@pytest.mark.parametrize(("name", "values", "allowed"), BAD_IDS.values(), ids=BAD_IDS)
def test_a_bad_id_is_named_with_what_is_allowed(name: str, values: list[bytes], allowed: str) -> None:
    tensors = {"user_id": NOBODY, "history": NOTHING, "exclude": NOTHING, name: np.array([values], np.object_)}
    with pytest.raises(RequestError, match=f"^{name} = .*{allowed}"):
        parse_request(**tensors, parameters="{}")


def test_two_people_in_one_request_are_refused() -> None:
    two = np.array([[b"a"], [b"b"]], np.object_)
    with pytest.raises(RequestError, match=r"^user_id = .*one person a request"):
        parse_request(two, np.empty((2, 0), np.object_), np.empty((2, 0), np.object_), "{}")


@pytest.mark.parametrize("text", ['{"context": "\\ud800"}', '{"diversity": 1%s}' % ("0" * 400), "[" * 100_000])
def test_what_no_client_should_send_is_refused_all_the_same(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_parameters(text)
    assert str(refused.value).encode()


def test_a_long_value_is_shortened_in_the_error() -> None:
    with pytest.raises(RequestError) as refused:
        parse_parameters(json.dumps({"context": "x" * 100_000}))
    assert len(str(refused.value)) < 300


@given(st.dictionaries(st.sampled_from([*PARAMETERS, "other"]), JSON_VALUES))
def test_no_parameters_raise_anything_but_a_request_error(parameters: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        assert set(parse_parameters(json.dumps(parameters))) <= set(PARAMETERS)


@given(st.text())
def test_any_context_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse_parameters(json.dumps({"context": text}))["context"], dict)


@pytest.mark.parametrize(
    ("message", "field"),
    [("k = 0: no", "k"), ("context.hour = 30 is invalid", "context"), ("anything else", "other"), ("", "other")],
)
def test_errors_are_counted_by_field(message: str, field: str) -> None:
    assert field_of(RequestError(message)) == field
