"""What is logged of requests, in which form, and what never is."""

import json
from pathlib import Path
from typing import Any

import pytest

from shortlist.errors import DeadlineError, RequestError, ServerError, ShortlistError
from shortlist.serving.client import Client
from shortlist.serving.logs import PER_SECOND, SLOW_MS, Lines, RequestLog
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from tests.serving.stand_in import seconds_until

TRITON_INFO = 'I1122 06:12:20.123456 4321 grpc_server.cc:2463] "Started GRPCInferenceService"'
TRITON_ERROR = 'E1122 06:12:20.123456 4321 model_lifecycle.cc:641] "failed to load"'
TRITON_HARMLESS = "W1122 06:12:20.123456 4321 metrics.cc:800] DCGM unable to start"


def written(*failures: tuple[str, ShortlistError]) -> list[dict[str, Any]]:
    lines: list[str] = []
    log = RequestLog("cascade_0_0", write=lines.append)
    for request_id, error in failures:
        log.failed(request_id, error)
    return [json.loads(line) for line in lines]


def shown(line: str, **options: bool) -> list[str]:
    lines: list[str] = []
    Lines(lines.append, **options).server(line)
    return lines


def test_a_refused_request_is_logged_with_its_id_and_field() -> None:
    (event,) = written(("7f3a", RequestError("k = 99: an int from 1 to 50 is allowed")))
    assert (event["event"], event["request"], event["field"]) == ("refused", "7f3a", "k")


def test_a_late_request_is_logged_as_late() -> None:
    (event,) = written(("7f3a", DeadlineError("deadline_unix_us = 1 passed")))
    assert event["event"] == "late"


def test_an_unforeseen_failure_says_where_it_happened_but_not_its_words() -> None:
    try:
        raise KeyError(b"item-of-somebody")
    except KeyError as cause:
        failure = ServerError("internal error")
        failure.__cause__ = cause
    (event,) = written(("7f3a", failure))
    assert event["error"] == "KeyError"
    assert event["stack"][-1].startswith("test_logs.py:")
    assert "somebody" not in json.dumps(event)


def test_a_flood_of_failures_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    log = RequestLog("cascade_0_0", write=lines.append)
    now = 1000.0
    monkeypatch.setattr("shortlist.serving.logs.time.time", lambda: now)
    for _ in range(PER_SECOND + 5):
        log.failed("x", RequestError("k = 0: bad"))
    assert len(lines) == PER_SECOND
    now += 1
    log.failed("x", RequestError("k = 0: bad"))
    assert json.loads(lines[-1])["left_out"] == 5


def test_an_id_of_any_length_and_kind_stays_on_its_line() -> None:
    lines: list[str] = []
    RequestLog("cascade_0_0", write=lines.append).failed("a\nb" * 1000, RequestError("k = 0: bad"))
    assert lines[0].count("\n") == 1
    assert len(lines[0]) < 400


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_tritons_complaints_are_shown_and_its_chatter_is_not(as_json: bool) -> None:
    assert shown(TRITON_INFO, as_json=as_json) == []
    assert shown(TRITON_HARMLESS, as_json=as_json) == []
    assert len(shown(TRITON_ERROR, as_json=as_json)) == 1
    assert len(shown(TRITON_INFO, as_json=as_json, verbose=True)) == 1


def test_tritons_words_become_fields() -> None:
    event = json.loads(shown(TRITON_ERROR, as_json=True)[0])
    assert (event["level"], event["where"], event["message"]) == ("error", "model_lifecycle.cc:641", '"failed to load"')


def test_a_line_of_another_form_is_json_too() -> None:
    assert json.loads(shown("Segmentation fault", as_json=True, verbose=True)[0])["message"] == "Segmentation fault"
    assert json.loads(shown('{"event": broken', as_json=True, verbose=True)[0])["event"] == "triton"


def test_an_event_reads_as_text() -> None:
    lines: list[str] = []
    RequestLog("cascade_0_0", write=lines.append).failed("7f3a", RequestError("k = 99: bad"))
    assert 'refused: process="cascade_0_0" request="7f3a" field="k"' in shown(lines[0].strip())[0]


@pytest.fixture
def events(repository: Path) -> Any:
    """A server to which every batch is slow, and what its log says."""
    said: list[str] = []
    lines = Lines(said.append, as_json=True)
    with (
        Supervisor(
            repository, free_address(), instances=1, on_log=lines.server, on_event=lines.say, environment={SLOW_MS: "0"}
        ) as supervisor,
        Client(supervisor.address.grpc) as client,
    ):
        yield client, said


def test_failed_and_slow_requests_are_logged_with_their_ids_and_nothing_of_what_they_asked(events: Any) -> None:
    client, said = events
    client.recommend("user-0", history=["item-1"], request_id="a-slow-one")
    generated = client.recommend("user-0").request_id
    with pytest.raises(RequestError):
        client.recommend("user-0", exclude=["item-2" * 100], request_id="a-bad-one")
    with pytest.raises(DeadlineError):
        client.recommend("user-0", deadline_ms=-1, request_id="a-late-one")
    seconds_until(lambda: any("a-late-one" in line and '"event": "late"' in line for line in said))
    found = [json.loads(line) for line in said]
    slow = {i: event for event in found if event["event"] == "slow" for i in event["requests"]}
    assert {"users", "retrieve", "filter", "rank", "diversify"} <= set(slow["a-slow-one"]["stages"])
    assert generated in slow
    assert [e["field"] for e in found if e.get("request") == "a-bad-one"] == ["exclude"]
    assert [e["event"] for e in found if e.get("request") == "a-late-one"] == ["late"]
    assert not any("item-" in line or "user-0" in line for line in said)
