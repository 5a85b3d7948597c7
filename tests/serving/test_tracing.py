"""OpenTelemetry spans: of which requests, in whose trace, when each stage was, and what comes over the wire."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shortlist.errors import ConfigError, MissingExtraError, RequestError
from shortlist.serving import tracing
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tracing import OTLP, RATIO, Spans, environment_for, lay_out, spans_from
from shortlist.types import Request
from tests.serving.stand_in import seconds_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
BAD = RequestError("k = 0: an int from 1 to 50 is allowed")
SECOND = 1_000_000_000


def spans_of(*traceparents: str | None, ratio: float = 0.0) -> list[Any]:
    """The spans of one batch of requests with these contexts, which took a second with two stages."""
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, ratio, {"service.name": "shortlist"})
    asked = [(Request(traceparent=parent), f"request-{i}", BAD) for i, parent in enumerate(traceparents)]
    stages = [(SECOND // 2, "users", 0.1, 1, 1), (SECOND, "rank", 0.25, 100, 10)]
    spans.batch(asked, (0, SECOND), stages)
    spans.close()
    return list(exporter.get_finished_spans())


def test_a_sampled_callers_trace_goes_on() -> None:
    (batch,) = [span for span in spans_of(SAMPLED) if span.name == "cascade"]
    assert f"{batch.context.trace_id:032x}" == TRACE
    assert f"{batch.parent.span_id:016x}" == CALLER


def test_stages_are_children_with_their_times_and_counts() -> None:
    users, rank, batch = spans_of(SAMPLED)
    assert [span.parent.span_id for span in (users, rank)] == [batch.context.span_id] * 2
    assert (rank.start_time, rank.end_time) == (SECOND * 3 // 4, SECOND)
    assert rank.attributes == {"shortlist.items_in": 100, "shortlist.items_out": 10}


def test_each_caller_of_a_batch_gets_spans_in_its_own_trace() -> None:
    other = f"00-{'1' * 32}-{CALLER}-01"
    batches = [span for span in spans_of(SAMPLED, other, None) if span.name == "cascade"]
    assert [f"{span.context.trace_id:032x}" for span in batches] == [TRACE, "1" * 32]
    assert [span.attributes["shortlist.requests"] for span in batches] == [("request-0",), ("request-1",)]


def test_requests_without_a_trace_share_the_span_of_their_batch() -> None:
    (batch,) = [span for span in spans_of(None, None, ratio=1.0) if span.name == "cascade"]
    assert batch.parent is None
    assert batch.attributes["shortlist.requests"] == ("request-0", "request-1")


@pytest.mark.parametrize("parent", [UNSAMPLED, None])
def test_who_is_not_sampled_gets_no_span(parent: str | None) -> None:
    assert spans_of(parent, ratio=0.0) == []


def test_stages_that_are_told_of_together_lie_one_after_the_other() -> None:
    told = [(1000, "users", 1e-7, 1, 1), (5000, "filter", 5e-7, 9, 9), (5010, "rank", 1e-6, 9, 9)]
    assert [(stage[1], start, end) for stage, start, end in lay_out(told, 0)] == [
        ("users", 900, 1000),
        ("filter", 3510, 4010),
        ("rank", 4010, 5010),
    ]


def test_an_instance_that_is_not_told_to_makes_no_spans() -> None:
    assert spans_from({}, {}) is None


@pytest.mark.parametrize("address", ["127.0.0.1:4318", "grpc://localhost:4317", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--otlp = .*http://127\.0\.0\.1:4318"):
        environment_for(address, 1.0)


def test_an_address_without_a_path_gets_the_usual_one() -> None:
    assert environment_for("http://collector:4318", 0.5) == {OTLP: "http://collector:4318/v1/traces", RATIO: "0.5"}
    assert environment_for("http://collector:4318/otlp", 0.5)[OTLP] == "http://collector:4318/otlp"


def test_without_the_extra_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match="otel"):
        environment_for("http://collector:4318", 0.5)


class Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP, and keeps it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []

    def received(self) -> list[tuple[dict[str, str], Any]]:
        """Each resource's attributes and spans."""
        messages = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            ({a.key: a.value.string_value for a in of.resource.attributes}, span)
            for message in messages
            for of in message.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == tracing.PATH:
            self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Not a word."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


def test_a_served_request_leaves_its_spans_at_the_receiver(repository: Path, receiver: Receiver) -> None:
    environment = environment_for(f"http://127.0.0.1:{receiver.server_port}", 0.0) | {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    with (
        Supervisor(repository, free_address(), instances=1, environment=environment) as supervisor,
        Client(supervisor.address.grpc) as client,
    ):
        client.recommend("user-0", request_id="untraced")
        client.recommend("user-0", request_id="traced", traceparent=SAMPLED)
        seconds_until(lambda: len(receiver.received()) >= 6)
    found = receiver.received()
    assert {span.trace_id.hex() for _, span in found} == {TRACE}
    assert {span.name for _, span in found} == {"cascade", "users", "retrieve", "filter", "rank", "diversify"}
    assert {resource["service.name"] for resource, _ in found} == {os.environ.get("OTEL_SERVICE_NAME", "shortlist")}
    batch = {span.name: span for _, span in found}["cascade"]
    assert {a.key: a.value.string_value for a in batch.attributes}["shortlist.status"] == "full"
    assert all(
        batch.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= batch.end_time_unix_nano
        for _, span in found
    )
