"""`shortlist serve`: JSON logs, TLS and traces as options, and which of them are refused."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.recommend import recommend
from shortlist.cli.serve import serve
from shortlist.errors import ConfigError
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.tls import Tls
from tests.serving.certificates import Authority
from tests.serving.stand_in import stand_in_at

APP = typer.Typer()
APP.command()(serve)
ASK = typer.Typer()
ASK.command()(recommend)
RUN = "import typer; from shortlist.cli.serve import serve; typer.run(serve)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--log-format", "xml"], "--log-format = 'xml': text or json"),
        (["--tls-cert", "server.pem"], "--tls-cert and --tls-key: TLS needs both"),
        (["--tls-client-ca", "ca.pem"], "--tls-cert and --tls-key: TLS needs both"),
        (["--tls-cert", "server.pem", "--tls-key", "server.key", "--http"], "--http: Triton's HTTP has no TLS"),
        (["--tls-cert", "server.pem", "--tls-key", "server.key"], "--tls-cert = server.pem: cannot be read"),
        (["--otlp", "collector:4318"], "--otlp = 'collector:4318': the address of an OTLP/HTTP receiver"),
    ],
    ids=["format", "no key", "client CA alone", "HTTP beside TLS", "no file", "no address"],
)
def test_options_that_cannot_be_meant_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(APP, [str(stand_in_at(tmp_path)), *options], catch_exceptions=False)
    assert str(refused.value).startswith(said)


def test_tls_without_a_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tls: allowed with --url alone"):
        CliRunner().invoke(ASK, ["runs/any", "--tls"], catch_exceptions=False)


def test_every_line_of_a_json_log_is_an_object_and_tls_is_spoken(tmp_path: Path) -> None:
    authority, address = Authority(tmp_path, "authority"), free_address()
    pair = authority.sign("server", "127.0.0.1")
    (tmp_path / "repository").mkdir()
    ports = ["--grpc-port", str(address.grpc_port), "--metrics-port", str(address.metrics_port)]
    files = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.cert)]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(stand_in_at(tmp_path / "repository")), *ports, *files, "--log-format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        events = [first_of(process, "serving")]
        with Client(events[0]["grpc"], tls=Tls(authority.cert, pair.cert, pair.key)) as client:
            assert client.recommend("user-0").ids == ["one"]
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    events += [json.loads(line) for line in rest.splitlines()]
    assert events[0]["tls"] is True
    assert events[-1]["event"] == "stopped"
    assert all({"event", "time", "level"} <= set(event) for event in events)


def first_of(process: "subprocess.Popen[str]", event: str) -> dict[str, Any]:
    """The first line of this event; all lines before it must be JSON too."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"no event {event!r}")


def test_what_prevents_the_start_is_an_event_too(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--grpc-port", str(port), "--log-format", "json"]
        ended = CliRunner().invoke(APP, [str(stand_in_at(tmp_path)), *options], catch_exceptions=False)
    event = json.loads(ended.output.splitlines()[-1])
    assert (ended.exit_code, event["event"], event["level"]) == (1, "failed", "error")
    assert f"--grpc-port = {port}" in event["message"]
