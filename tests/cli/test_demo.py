"""The demo goes the whole way, from a log to slates out of a real Triton, and reuses what is still valid."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.config import Config


@pytest.fixture(scope="module")
def command(planted_config: Config, planted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("demo")
    planted_config.write(folder / "demo.yaml")
    paths = ["--config", str(folder / "demo.yaml"), "--run", str(planted_run), "--repository", str(folder / "build")]
    return ["demo", *paths, "--grpc-port", "0", "--metrics-port", "0", "--gateway-port", "0", "--once"]


@pytest.fixture(scope="module")
def first(command: list[str]) -> str:
    """What the first demo printed."""
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_ends_with_slates_and_addresses(first: str) -> None:
    assert len(re.findall(r"user user\d+ \(full", first)) == 3
    assert "a user nobody knows (full)" in first
    assert re.search(r"metrics +http://127\.0\.0\.1:\d+/metrics", first)


def test_what_a_person_does_changes_their_slate(first: str) -> None:
    assert re.search(r"user user\d+, before", first)
    assert re.search(r"user user\d+, \d+ ms after the events were sent", first)
    assert re.search(r"[1-9]\d* of 10 items are new", first)


def test_a_second_time_nothing_is_done_again(first: str, command: list[str]) -> None:
    second = CliRunner().invoke(app, command).output
    assert "measured already" in second
    assert "version 1" in first
    assert "version 1" in second


def test_ctrl_c_stops_it(command: list[str], tmp_path: Path) -> None:
    program = [sys.executable, "-m", "shortlist.cli.main", *command[:-1]]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 240
        while "Serving until Ctrl-C" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(120) == 0
        finally:
            process.kill()
        assert "stopped" in (tmp_path / "log").read_text()
