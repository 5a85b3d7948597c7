"""One real server process: its ports, its log, its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shortlist.errors import ServerError
from shortlist.serving.control import Control
from shortlist.serving.process import _LAUNCH, Address, TritonServer, free_address, usable_cores
from shortlist.serving.triton import TritonInstall
from tests.serving.stand_in import seconds_until

KEY = "the-secret-key"
ORPHAN = """
import sys, time
from pathlib import Path
from shortlist.serving.process import TritonServer, free_address
from shortlist.serving.triton import find_triton
server = TritonServer(find_triton(), Path(sys.argv[1]), free_address(), "key")
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server(install: TritonInstall, tmp_path: Path) -> Iterator[TritonServer]:
    """A server without models: it starts in a fraction of a second."""
    process = TritonServer(install, tmp_path, free_address(), KEY)
    yield process
    process.stop()


def is_open(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def wait_until_live(server: TritonServer) -> None:
    control = Control(server.address, KEY)
    live = control.wait_until_live(lambda: server.alive, timeout=60)
    control.close()
    assert live, server.log_tail


def test_it_starts_and_stops(server: TritonServer) -> None:
    server.start()
    wait_until_live(server)
    started = time.monotonic()
    server.stop()
    assert not server.alive
    assert time.monotonic() - started < 15  # by itself Triton might take 30


def test_it_can_be_started_again(server: TritonServer) -> None:
    for _ in range(2):
        server.start()
        wait_until_live(server)
        server.stop()


def test_a_port_in_use_is_named_before_anything_starts(install: TritonInstall, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = TritonServer(install, tmp_path, Address(grpc_port=port, metrics_port=free_address().metrics_port), KEY)
        with pytest.raises(ServerError, match=rf"--grpc-port = {port}: .*Address already in use.*choose another"):
            server.start()


def test_one_port_cannot_serve_two_purposes() -> None:
    port = free_address().grpc_port
    with pytest.raises(ServerError, match=rf"--metrics-port = {port}: is --grpc-port already"):
        Address(grpc_port=port, metrics_port=port).check()


def test_a_foreign_host_is_refused() -> None:
    with pytest.raises(ServerError, match=r"cannot listen on 192\.0\.2\.1"):
        Address(host="192.0.2.1").check()


def test_it_listens_on_loopback_alone_and_without_http(server: TritonServer) -> None:
    server.start()
    wait_until_live(server)
    at = server.address
    seconds_until(lambda: is_open(at.metrics_port))  # a moment after the other
    open_ports = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {(a.ip.removeprefix("::ffff:"), a.port) for a in open_ports} == {
        ("127.0.0.1", at.grpc_port),
        ("127.0.0.1", at.metrics_port),
    }


def test_the_log_keeps_no_secret(server: TritonServer) -> None:
    server.start()
    wait_until_live(server)
    server.stop()
    assert "GRPCInferenceService" in server.log_tail
    assert KEY not in server.log_tail


def test_free_addresses_are_free_and_distinct() -> None:
    address = free_address(http=True)
    address.check()
    assert len({address.grpc_port, address.metrics_port, address.http_port}) == 3


def test_a_killed_parent_takes_the_server_with_it(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        server = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs([server], timeout=60)
    for process in alive:
        process.kill()
    assert gone == [server]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_within_the_start_loses_no_process(
    server: TritonServer, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def signalled(*arguments: Any, **options: Any) -> "subprocess.Popen[str]":
        process = real(*arguments, **options)
        signal.raise_signal(number)
        return process

    real, before = subprocess.Popen, signal.signal(number, interrupt)
    monkeypatch.setattr(subprocess, "Popen", signalled)
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start()
    finally:
        signal.signal(number, before)
    server.stop()
    assert server.exit_code is not None


def test_a_server_whose_parent_is_gone_does_not_start() -> None:
    nobody = str(os.getpid() + 1)
    launched = [sys.executable, "-ISc", _LAUNCH, nobody, "/bin/echo", "started"]
    assert subprocess.run(launched, capture_output=True, check=True).stdout == b""


def test_usable_cores_are_at_most_those_of_the_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
