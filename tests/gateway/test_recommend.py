"""POST /v1/recommend without a server behind it: the form of requests, and what is answered instead of a slate."""

from typing import Any

import httpx
import pytest

from shortlist.gateway.settings import MAX_BODY

WRONG: dict[str, tuple[Any, str]] = {  # name -> body, the field that is named
    "k zero": ({"k": 0}, "k"),
    "k too large": ({"k": 51}, "k"),
    "k a text": ({"k": "10"}, "k"),
    "k a bool": ({"k": True}, "k"),
    "k huge": ({"k": 10**30}, "k"),
    "diversity above 1": ({"diversity": 1.5}, "diversity"),
    "diversity a text": ({"diversity": ".5"}, "diversity"),
    "user an int": ({"user_id": 42}, "user_id"),
    "history a text": ({"history": "item-1"}, "history"),
    "history of ints": ({"history": ["a", 1]}, "history"),
    "exclude too long": ({"exclude": ["a"] * 10_001}, "exclude"),
    "context a text": ({"context": "{}"}, "context"),
    "context too deep": ({"context": {"a": {"b": {"c": {"d": {}}}}}}, "context"),
    "eligible a list": ({"eligible": []}, "eligible"),
    "deadline zero": ({"deadline_ms": 0}, "deadline_ms"),
    "deadline of a day": ({"deadline_ms": 86_400_000}, "deadline_ms"),
    "trace an int": ({"trace": 1}, "trace"),
    "an unknown field": ({"users": "42"}, "users"),
    "a list": ([], "body"),
    "a text": ("k", "body"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(client: httpx.Client, name: str) -> None:
    body, field = WRONG[name]
    answer = client.post("/v1/recommend", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_a_refusal_names_the_value_and_what_is_allowed(client: httpx.Client) -> None:
    answer = client.post("/v1/recommend", json={"k": 99})
    assert answer.json()["error"]["message"] == "k = 99: an int from 1 to 50 (by default 10) is allowed"


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"user_id": "\\ud800x"}', b"[" * 200_000, b'{"a":' * 40_000])
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_what_is_no_json_is_a_bad_request(client: httpx.Client, path: str, body: bytes) -> None:
    assert client.post(path, content=body).status_code == 400


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_a_body_that_is_too_large_is_refused_by_its_declared_length(client: httpx.Client, path: str) -> None:
    assert client.post(path, content=b" " * (MAX_BODY + 1)).status_code == 413


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
def test_a_body_that_grows_too_large_is_refused(client: httpx.Client, path: str) -> None:
    assert client.post(path, content=iter([b" " * 100_000] * 3)).status_code == 413


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/recommend", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_without_a_server_the_answer_says_so_and_not_where_it_should_be(client: httpx.Client) -> None:
    answer = client.post("/v1/recommend", json={"user_id": "anna"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"].startswith("the ranking server is away")
    assert "127.0.0.1" not in answer.text
