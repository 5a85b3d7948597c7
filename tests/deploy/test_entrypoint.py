"""What a container does at its first start, at later ones, and when something is wrong: the script itself, with a
`shortlist` in place of ours that only says what it was asked."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.deploy.files import ENTRYPOINT

SAYS = 'echo "$@" >> "$CALLS"'
SLEEPS = 'echo "$@" >> "$CALLS"; [ "$1" = serve ] || sleep 60'
FAILS = 'echo "error: bundle is damaged" >&2; exit 1'
TWO_GPUS = 'printf "NVIDIA L4, 8.9\\nNVIDIA L4, 8.9\\n"'


class Machine:
    """A folder that plays the container's file system."""

    def __init__(self, root: Path) -> None:
        self.bundle, self.models, self.programs, self.calls = (root / n for n in ("bundle", "models", "bin", "calls"))
        for folder in (self.bundle, self.models, self.programs):
            folder.mkdir()
        self.environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "SHORTLIST_BUNDLE": str(self.bundle),
            "SHORTLIST_MODELS": str(self.models),
            "SHORTLIST_TARGET": "cpu",
            "CALLS": str(self.calls),
        }
        self.add("shortlist", SAYS)

    def add(self, program: str, script: str) -> None:
        """Put a program on the PATH."""
        (self.programs / program).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / program).chmod(0o755)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Start a container."""
        command = [str(ENTRYPOINT), *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *options: str, **environment: str) -> tuple[int, str]:
        """Run a container to its end: exit code and complaint."""
        self.environment.update(environment)
        process = self.start(*options)
        _, complaint = process.communicate(timeout=60)
        return process.returncode, complaint

    def asked(self) -> list[str]:
        """What `shortlist` was called with."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with a bundle."""
    made = Machine(tmp_path)
    (made.bundle / "manifest.json").write_text("{}")
    return made


def test_the_bundle_is_exported_and_then_served(machine: Machine) -> None:
    machine.run("--host", "0.0.0.0")
    repository = machine.models / "cpu"
    assert machine.asked() == [
        f"export {machine.bundle} --target cpu --out {repository}",
        f"serve {repository} --host 0.0.0.0",
    ]


def test_more_options_reach_the_export(machine: Machine) -> None:
    machine.run(SHORTLIST_EXPORT_ARGS="--gpu-memory 20 --stages")
    assert machine.asked()[0].endswith("--gpu-memory 20 --stages")


def test_what_an_interrupted_export_left_is_removed(machine: Machine) -> None:
    left = machine.models / "cpu" / ".export-x1y2"
    left.mkdir(parents=True)
    machine.run()
    assert not left.exists()


def test_a_prebuilt_repository_is_served_as_it_is(machine: Machine) -> None:
    (machine.models / "cascade").mkdir()
    (machine.models / "cascade" / "config.pbtxt").touch()
    machine.run("--host", "0.0.0.0")
    assert machine.asked() == [f"serve {machine.models} --host 0.0.0.0"]


def test_nothing_is_served_when_the_export_fails(machine: Machine) -> None:
    machine.add("shortlist", FAILS)
    assert machine.run() == (1, "error: bundle is damaged\n")


def test_without_bundle_or_repository_it_says_what_to_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    code, complaint = machine.run()
    assert code == 1
    assert f"mount a run or bundle at {machine.bundle}" in complaint


def test_engines_are_kept_by_kind_of_gpu_and_by_triton(machine: Machine) -> None:
    machine.add("nvidia-smi", TWO_GPUS)
    machine.run(SHORTLIST_TARGET="gpu", NVIDIA_TRITON_SERVER_VERSION="25.06")
    assert machine.asked()[1] == f"serve {machine.models}/NVIDIA-L4-8.9-triton25.06"


@pytest.mark.parametrize("found", ["exit 9", "exit 0"], ids=["no-driver", "no-device"])
def test_without_a_gpu_the_gpu_target_is_refused(machine: Machine, found: str) -> None:
    machine.add("nvidia-smi", found)
    code, complaint = machine.run(SHORTLIST_TARGET="gpu")
    assert code == 1
    assert complaint.startswith("error: no GPU is visible")
    assert machine.asked() == []


def test_another_command_runs_in_its_place(machine: Machine) -> None:
    machine.run("shortlist", "doctor")
    assert machine.asked() == ["doctor"]


def test_serving_replaces_the_script_so_that_signals_reach_it(machine: Machine) -> None:
    machine.add("shortlist", '[ "$1" = export ] || echo $$ > "$CALLS"')
    process = machine.start()
    process.communicate(timeout=60)
    assert machine.asked() == [str(process.pid)]


def test_a_signal_ends_the_export_and_nothing_is_served(machine: Machine) -> None:
    machine.add("shortlist", SLEEPS)
    process = machine.start()
    until = time.monotonic() + 60
    while not machine.asked() and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # as `tini -g` does
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert [call.split()[0] for call in machine.asked()] == ["export"]
