"""What the gateway costs: CPU time a request of its own process, requests a second, and the delay it adds.

    python -m tests.gateway.measure

Serves a small bundle, so that the ranking itself takes little; the gateway's own cost does not depend on the bundle.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from shortlist.gateway.keys import make_key
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from tests.factories import make_bundle
from tests.gateway.events import event

SECONDS = 4.0
CONNECTIONS = 8
PAIRS = 400


def message(port: int, path: str, body: Any, key: str) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


def exchange(connection: socket.socket, sent: bytes) -> None:
    """One request and its answer, which has to be a 200."""
    connection.sendall(sent)
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    missing = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(missing))


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def load(process: psutil.Process, port: int, sent: bytes) -> tuple[float, float]:
    """CPU µs of the gateway a request, and requests a second, over CONNECTIONS that are always busy."""
    until, counts = time.monotonic() + SECONDS, [0] * CONNECTIONS

    def work(number: int) -> None:
        with connect(port) as connection:
            while time.monotonic() < until:
                exchange(connection, sent)
                counts[number] += 1

    before, began = process.cpu_times(), time.monotonic()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, took = process.cpu_times(), time.monotonic() - began
    spent = after.user + after.system - before.user - before.system
    return 1e6 * spent / sum(counts), sum(counts) / took


def delays(through: Callable[[], object], direct: Callable[[], object]) -> tuple[float, float]:
    """Median ms of both, one request at a time, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(PAIRS):
        for ask, kept in zip((through, direct), times, strict=True):
            began = time.perf_counter()
            ask()
            kept.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[0][PAIRS // 10 :]), statistics.median(times[1][PAIRS // 10 :])


def gateway(folder: Path, grpc: str) -> tuple[subprocess.Popen[str], int, str]:
    """The command, as a process of its own, with keys and an audit log."""
    key = make_key("admin", folder / "keys")
    options = {"grpc": grpc, "events": folder / "events", "keys": folder / "keys", "audit": folder / "audit"}
    said = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    said += ["--port", "0", "--rate", "1e9", "--burst", "1000000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shortlist.cli.main", "gateway", *said], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline().rpartition(":")[2]), key


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="shortlist-gateway-") as name:
        folder = Path(name)
        build_repository(make_bundle(folder / "bundle"), folder / "repository")
        with Supervisor(folder / "repository", free_address(), instances=1) as supervisor:
            process, port, key = gateway(folder, supervisor.address.grpc)
            try:
                measure(process.pid, port, key, supervisor.address.grpc)
            finally:
                process.terminate()
                process.wait()


def measure(pid: int, port: int, key: str, grpc: str) -> None:
    """Every figure of a gateway that runs."""
    asked = message(port, "/v1/recommend", {"user_id": "user-0", "k": 10}, key)
    sent = {"POST /v1/recommend": asked}
    for amount in (1, 20, 200):
        body = {"events": [event(n, context={"device": "phone", "hour": 3}) for n in range(amount)]}
        sent[f"POST /v1/events, {amount} a request"] = message(port, "/v1/events", body, key)
    for name, request in sent.items():
        cpu, rate = load(psutil.Process(pid), port, request)
        print(f"{name:34} {cpu:7.0f} CPU-µs a request  {rate:7.0f} requests/s", flush=True)
    with connect(port) as connection, Client(grpc) as client:
        through, direct = delays(
            lambda: exchange(connection, asked), lambda: client.recommend("user-0", k=10, deadline_ms=5000)
        )
    print(f"delay of a slate, one at a time: {through:.2f} ms through the gateway, {direct:.2f} ms by gRPC")


if __name__ == "__main__":
    main()
