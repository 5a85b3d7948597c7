"""Versions that come without plans to a server that runs: they are built beside it, and wait until then."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from shortlist.serving import builds as module
from shortlist.serving.builds import NICENESS, PlanBuilds, main
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor

WAITS = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
sys.exit(open(sys.argv[1]).read() or None)
"""


class Children:
    """Processes in place of those that build: each ends when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started, self.processes = folder, [], []

    def start(self, _repository: Path, number: str, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        self.started.append(number)
        child = subprocess.Popen([sys.executable, "-c", WAITS, str(self.folder / number)], stdout=log, stderr=log)
        self.processes.append(child)
        return child

    def end(self, number: str, complaint: str = "") -> None:
        (self.folder / "written").write_text(complaint)
        (self.folder / "written").rename(self.folder / number)
        self.processes[-1].wait(60)


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Children:
    (tmp_path / "told").mkdir()
    made = Children(tmp_path / "told")
    monkeypatch.setattr(module, "_start_child", made.start)
    return made


@pytest.fixture
def arrive(tmp_path: Path) -> Callable[[str], None]:
    """A version comes to the repository; the first is there."""

    def come(number: str) -> None:
        (tmp_path / "cascade" / number).mkdir(parents=True)

    come("1")
    return come


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def builds(tmp_path: Path, arrive: Any, told: list[str], children: Children) -> Iterator[PlanBuilds]:
    with PlanBuilds(tmp_path, told.append) as made:
        yield made


def test_a_version_that_was_there_is_ready(builds: PlanBuilds, children: Children) -> None:
    assert builds.ready("1")
    assert children.started == []


def test_a_new_version_waits_until_its_plans_are_built(builds: PlanBuilds, arrive: Any, children: Children) -> None:
    arrive("2")
    assert [builds.ready("2"), builds.ready("2")] == [False, False]
    assert children.started == ["2"]
    children.end("2")
    assert builds.ready("2")


def test_one_version_is_built_at_a_time(builds: PlanBuilds, arrive: Any, children: Children) -> None:
    arrive("2")
    arrive("3")
    assert [builds.ready("3"), builds.ready("2")] == [False, False]
    assert children.started == ["3"]


def test_a_failing_build_is_told_and_not_repeated(
    builds: PlanBuilds, arrive: Any, children: Children, told: list[str]
) -> None:
    arrive("2")
    builds.ready("2")
    children.end("2", "TensorRT refuses the graph")
    assert [builds.ready("2"), builds.ready("2")] == [True, True]
    assert told[-1] == "version 2: its plans are not built: TensorRT refuses the graph"
    assert children.started == ["2"]


def test_a_build_ends_with_the_server(tmp_path: Path, arrive: Any, children: Children) -> None:
    with PlanBuilds(tmp_path, print) as builds:
        arrive("2")
        builds.ready("2")
    assert children.processes[0].returncode is not None


def test_the_building_process_is_nice_and_says_why_it_failed(tmp_path: Path, arrive: Any, told: list[str]) -> None:
    niceness = []
    with PlanBuilds(tmp_path, told.append) as builds:
        arrive("2")
        assert not builds.ready("2")
        assert builds._child
        child = psutil.Process(builds._child.pid)
        until = time.monotonic() + 60
        while not builds.ready("2") and time.monotonic() < until:
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                niceness.append(child.nice())
    assert max(niceness) - os.nice(0) == NICENESS
    assert "there is no GPU here" in told[-1]


def test_the_building_process_completes_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, str]] = []
    monkeypatch.setattr(module, "_step_back", lambda: None)
    monkeypatch.setattr("shortlist.serving.plans.find_builder", lambda: "builder")
    monkeypatch.setattr("shortlist.serving.plans.complete", lambda *given: asked.append(given[:2]))
    assert main(str(tmp_path), "2") == 0
    assert asked == [(tmp_path, "2")]


def test_a_supervisor_leaves_a_version_that_is_not_ready_alone(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / "cascade" / number).mkdir(parents=True)
        (tmp_path / "cascade" / number / "model.py").touch()
    ready = {"1"}
    supervisor = Supervisor(tmp_path, free_address(), ready=lambda number: number in ready)
    assert supervisor._newest("cascade") == "1"
    ready.add("2")
    assert supervisor._newest("cascade") == "2"
