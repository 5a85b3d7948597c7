"""POST /v1/events: durable when answered, and every event judged by itself."""

from pathlib import Path

import httpx
import pytest

from shortlist.events.transport import TransportError
from shortlist.gateway.settings import MAX_EVENTS
from tests.gateway.conftest import Start
from tests.gateway.events import event, logged


def test_one_event_is_in_the_log_when_it_is_answered(client: httpx.Client, log: Path) -> None:
    assert client.post("/v1/events", json=event()).json() == {"accepted": 1, "errors": []}
    assert [e.event_id for e in logged(log)][-1] == "event-0"


def test_a_batch_keeps_its_order(client: httpx.Client, log: Path) -> None:
    client.post("/v1/events", json={"events": [event(n) for n in range(50)]})
    assert [e.event_id for e in logged(log)][-50:] == [f"event-{n}" for n in range(50)]


def test_a_wrong_event_of_a_batch_is_named_and_the_others_are_taken(client: httpx.Client, log: Path) -> None:
    answer = client.post("/v1/events", json={"events": [event(0), event(1, type="klick"), event(2)]})
    assert answer.json()["errors"] == [
        {
            "index": 1,
            "field": "type",
            "value": "'klick'",
            "allowed": "one of click, view, dwell, like, dislike, skip, share, rating",
        }
    ]
    assert [e.event_id for e in logged(log)][-2:] == ["event-0", "event-2"]


def test_wrong_events_alone_are_a_bad_request(client: httpx.Client) -> None:
    assert client.post("/v1/events", json=event(user_id="")).status_code == 400


@pytest.mark.parametrize("events", [[], [event()] * (MAX_EVENTS + 1), {}, None])
def test_a_batch_has_a_list_of_bounded_length(client: httpx.Client, events: object) -> None:
    assert client.post("/v1/events", json={"events": events}).status_code == 400


def test_a_batch_may_have_no_further_fields(client: httpx.Client) -> None:
    answer = client.post("/v1/events", json={"events": [event()], "user": "x"})
    assert answer.json()["error"]["field"] == "user"


def test_a_gateway_without_a_log_says_so(start: Start) -> None:
    answer = start().post("/v1/events", json=event())
    assert answer.status_code == 503
    assert "--events" in answer.json()["error"]["message"]


def test_a_log_that_refuses_is_a_503_and_the_next_events_are_taken(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shortlist.events.local_log import LocalLog

    def full(*_: object) -> None:
        raise TransportError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalLog, "append", full)
        refused = client.post("/v1/events", json=event())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "space" not in refused.text  # nor where the log lies
    assert client.post("/v1/events", json=event()).status_code == 200


def test_a_log_that_fails_unforeseen_does_not_stop_the_intake(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shortlist.events.local_log import LocalLog

    url = str(client.base_url.join("/v1/events"))  # uvicorn ends the connection of a 500

    def broken(*_: object) -> None:
        raise ValueError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(LocalLog, "append", broken)
        assert httpx.post(url, json=event()).status_code == 500
    assert httpx.post(url, json=event()).status_code == 200


def test_events_beyond_what_may_wait_are_refused(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.gateway.intake.MAX_WAITING", 2)
    answer = client.post("/v1/events", json={"events": [event(n) for n in range(3)]})
    assert "does not keep up" in answer.json()["error"]["message"]


def test_a_second_gateway_cannot_write_the_same_log(client: httpx.Client, start: Start, log: Path) -> None:
    with pytest.raises(TransportError):
        start(events=str(log))
