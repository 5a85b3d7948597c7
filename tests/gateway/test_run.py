"""What surrounds the application: bounds of a request's head, TLS, ports, the command, metrics, the API's document."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import jsonschema
import psutil
import pytest

from shortlist.errors import ConfigError, ServerError
from shortlist.gateway import run
from shortlist.gateway.settings import MAX_HEAD, Settings
from shortlist.serving.tls import Tls
from tests.gateway.conftest import Start
from tests.gateway.events import event
from tests.prometheus import program
from tests.serving.certificates import Authority


@pytest.fixture
def raw(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60) as connection:
        yield connection


def ends(connection: socket.socket) -> bool:
    """Whether the other side ends the connection."""
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def test_a_head_without_end_is_cut_off(raw: socket.socket) -> None:
    raw.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * 2 * MAX_HEAD)
    assert ends(raw)


def test_a_head_that_does_not_come_is_not_waited_for(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
        assert ends(connection)


def test_a_second_head_on_the_connection_is_not_waited_for_either(
    raw: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert b"200" in raw.recv(4096)
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
    raw.sendall(b"GET /healthz HTTP/1.1\r\n")
    assert ends(raw)


def test_a_body_that_does_not_come_is_not_waited_for(raw: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.gateway.body.BODY_SECONDS", 0.2)
    raw.sendall(b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n{")
    assert b"408" in raw.recv(4096)


@pytest.mark.parametrize(
    ("request_", "rest"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"\r\n"),
        (b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99999999\r\n\r\n{", b"a"),
    ],
    ids=["an empty line", "a refused body"],
)
def test_what_follows_an_answer_keeps_no_connection_open(
    raw: socket.socket, monkeypatch: pytest.MonkeyPatch, request_: bytes, rest: bytes
) -> None:
    cut, cuts = run.BoundedHead._cut, list[object]()
    monkeypatch.setattr(run.BoundedHead, "_cut", lambda connection: cuts.append(connection) or cut(connection))
    raw.sendall(request_)
    assert raw.recv(65536)
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
    raw.sendall(rest)
    assert ends(raw)
    assert len(cuts) == 1  # it was not ended as an idle one


@pytest.mark.parametrize("endless", [b"x: aaaaaaaaaaa\r\n", b"aaaaaaaaaaaaaaaa"], ids=["trailers", "one trailer"])
def test_what_stands_behind_a_body_does_not_gather_in_memory(raw: socket.socket, endless: bytes) -> None:
    raw.sendall(b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
    time.sleep(0.2)  # so that the body has been read
    with pytest.raises(ConnectionError):
        raw.sendall(endless * (10 << 20))


def test_a_trailer_is_passed_over(raw: socket.socket) -> None:
    raw.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n")
    raw.sendall(b"1\r\n{\r\n0\r\nx: a\r\n\r\nGET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    answers = b"".join(iter(lambda: raw.recv(4096), b""))
    assert b"400 Bad" in answers
    assert b"200 OK" in answers


GREETING = (
    b"GET /v1/live?user=a HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize("extra", [b"x: " + b"a" * 9000, b"\r\n".join([b"x: a"] * 200)], ids=["long", "many"])
def test_a_greeting_that_the_websocket_refuses_ends_the_connection(start: Start, extra: bytes) -> None:
    port = start().base_url.port or 0  # its end fails, too, where such a connection is left
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(GREETING + extra + b"\r\n\r\n")
        assert ends(connection)


def test_a_request_that_takes_too_long_is_answered_in_time(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shortlist.events.local_log import LocalLog

    answered = threading.Event()
    monkeypatch.setattr("shortlist.gateway.guard.LONGEST", 0.2)
    monkeypatch.setattr(LocalLog, "append", lambda *_: answered.wait(60))
    assert client.post("/v1/events", json=event()).status_code == 504
    answered.set()


def test_the_listening_socket_is_one_for_which_asyncio_turns_nagles_algorithm_off() -> None:
    with run._listen(Settings(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_taken_port_is_named(client: httpx.Client, start: Start) -> None:
    with pytest.raises(ServerError, match=f"--port = {client.base_url.port}"):
        start(port=client.base_url.port)


def test_https_is_spoken_with_a_certificate(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.sign("server", "127.0.0.1")
    url = start(cert=pair.cert, key=pair.key).base_url
    trusted = ssl.create_default_context(cafile=authority.cert)
    answer = httpx.get(url.join("/healthz"), verify=trusted, timeout=60)
    assert (url.scheme, answer.status_code) == ("https", 200)
    assert "strict-transport-security" in answer.headers


def test_files_of_tls_that_cannot_be_used_are_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("no certificate")
    for cert in (tmp_path / "nowhere", tmp_path / "pem"):
        with pytest.raises(ConfigError, match=f"--tls-cert = {cert}.*cannot be used"):
            start(cert=cert, key=cert)
    with pytest.raises(ConfigError, match="cannot be read"):
        start(grpc_tls=Tls(tmp_path / "nowhere"))


def test_browsers_are_told_to_be_careful(client: httpx.Client) -> None:
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_only_the_tracker_may_be_loaded_by_other_pages(client: httpx.Client) -> None:
    policies = [client.get(path).headers["cross-origin-resource-policy"] for path in ("/tracker.js", "/static/live.js")]
    assert policies == ["cross-origin", "same-origin"]


def test_metrics_count_what_was_refused_by_its_field(client: httpx.Client) -> None:
    client.post("/v1/events", json={"events": [event(), event(type="klick")]})
    found = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
    assert int(found['shortlist_gateway_events_refused_total{field="type"}']) >= 1
    assert int(found['shortlist_gateway_request_seconds_count{route="/v1/events"}']) >= 1


@pytest.mark.prometheus
def test_metrics_are_what_prometheus_reads(client: httpx.Client) -> None:
    client.post("/v1/recommend", json={})
    text = client.get("/metrics").text
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, text=True, capture_output=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_unknown_paths_make_no_labels(client: httpx.Client) -> None:
    for number in range(50):
        client.get(f"/{number}")
    assert 'route="/49"' not in client.get("/metrics").text


def test_the_documents_example_of_an_event_is_one(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Event"]
    jsonschema.validate(event(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event(type="klick"), schema)


def test_every_reference_of_the_document_leads_somewhere(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    names = {part.split('"')[0] for part in client.get("/openapi.json").text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "shortlist.cli.main", "gateway", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with command("--port", "0", "--events", str(tmp_path / "events")) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        try:
            assert httpx.post(f"{url}/v1/events", json=event(), timeout=60).json()["accepted"] == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_the_command_makes_keys(tmp_path: Path) -> None:
    with command("--make-key", "track", "--keys", str(tmp_path / "keys"), "--key-name", "shop") as process:
        made, _ = process.communicate(timeout=120)
    assert made.startswith("sl-track-")
    assert '"name": "shop"' in (tmp_path / "keys").read_text()


def test_the_command_does_not_open_to_strangers_without_keys() -> None:
    with command("--host", "0.0.0.0", "--port", "0") as process:
        said, _ = process.communicate(timeout=120)
    assert (process.returncode, "--keys" in said, "Traceback" in said) == (1, True, False)


def connected(server: int, client: int) -> bool:
    """Whether this process, on the port `server`, has a connection to the port `client`."""
    connections = psutil.Process().net_connections("tcp")
    return (server, client) in [(c.laddr.port, c.raddr.port) for c in connections if c.raddr]


def test_a_connection_that_takes_nothing_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STALLED_SECONDS", 1.5)
    port = start().base_url.port or 0
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", port))
        silent.sendall(b"GET /tracker.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1000)  # 9 MB of answers
        silent.settimeout(60)
        assert silent.recv(1, socket.MSG_PEEK)  # it is accepted, and answered; nothing is taken
        own, end = silent.getsockname()[1], time.monotonic() + 60
        while connected(port, own):
            assert time.monotonic() < end, "after a minute the connection is still there"
            time.sleep(0.05)
