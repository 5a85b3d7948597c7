"""`shortlist serve` as a process of its own: what it prints, how it ends, and what it refuses."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.recommend import recommend
from shortlist.cli.serve import serve
from shortlist.errors import ConfigError, ServerError
from shortlist.serving.client import Client
from shortlist.serving.process import Address, free_address

APP = typer.Typer()
APP.command()(serve)
ASK = typer.Typer()
ASK.command()(recommend)
RUN = "import typer; from shortlist.cli.serve import serve; typer.run(serve)"


def start(repository: Path, address: Address) -> "subprocess.Popen[str]":
    ports = ["--grpc-port", str(address.grpc_port), "--metrics-port", str(address.metrics_port)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(repository), *ports, "--instances", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=None,
    )


def servers_of(address: Address) -> list[psutil.Process]:
    """The servers that were started to listen at `address`, and still run."""
    option = f"--grpc-port={address.grpc_port}"
    return [p for p in psutil.process_iter(["cmdline"]) if option in (p.info["cmdline"] or ())]


def read_until(process: "subprocess.Popen[str]", last: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            break
    return "".join(lines)


@pytest.fixture
def serving(repository: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A started server and what it printed."""
    process = start(repository, free_address())
    yield process, read_until(process, "Ctrl-C stops")
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_it_answers_at_the_printed_addresses_and_stops_cleanly(
    serving: tuple["subprocess.Popen[str]", str], how: signal.Signals
) -> None:
    process, printed = serving
    found = re.search(r"gRPC +(\S+)\nmetrics +(\S+)\n", printed)
    assert found, printed
    with Client(found[1]) as client:
        assert len(client.recommend("user-0")) == 10
    with urllib.request.urlopen(found[2], timeout=60) as page:
        assert b"nv_inference_request_success" in page.read()
    asked = CliRunner().invoke(ASK, ["--url", found[1], "--user", "user-0", "--k", "3", "--trace"])
    assert asked.output.count("item-") == 3
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    process.send_signal(how)
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 15  # by itself Triton might take 30
    assert rest.strip() == "stopped"
    assert process.returncode == 0
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_it_stops_while_it_starts(repository: Path) -> None:
    address = free_address()
    process = start(repository, address)
    parent = psutil.Process(process.pid)
    until = time.monotonic() + 60
    while not parent.children() and time.monotonic() < until:
        time.sleep(0.001)  # so that the signal often comes while the server is being started
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not servers_of(address)  # not `address.check()`: anybody may have taken the ports since


def test_a_port_in_use_is_a_clear_error(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"--grpc-port = {port}: .*in use"):
            CliRunner().invoke(APP, [str(repository), "--grpc-port", str(port)], catch_exceptions=False)


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="shortlist export"):
        CliRunner().invoke(APP, [str(tmp_path)], catch_exceptions=False)


def test_a_gpu_for_a_repository_without_plans_is_refused_at_once(repository: Path) -> None:
    with pytest.raises(ConfigError, match="is for the CPU; make one for a GPU"):
        CliRunner().invoke(APP, [str(repository), "--device", "gpu"], catch_exceptions=False)


def test_recommend_says_when_no_server_answers() -> None:
    with pytest.raises(ServerError, match="no server answers"):
        CliRunner().invoke(ASK, ["--url", free_address().grpc], catch_exceptions=False)


def test_help_shows_an_example() -> None:
    assert "shortlist serve build/demo" in CliRunner().invoke(APP, ["--help"]).output
