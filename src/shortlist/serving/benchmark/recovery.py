"""Kills and stops what serves, and times how long it takes until it is back.

    python -m shortlist.serving.benchmark.recovery runs/demo --rounds 5

Back means that every process is alive and answers in a row come from all of them. A killed supervisor is started again
at once, as a service manager would do.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from shortlist.errors import ServerError, ShortlistError
from shortlist.serving.client import Client
from shortlist.serving.process import Address, free_address, is_dead, kill_all
from shortlist.serving.repository import build_repository, find_bundle

LIMIT = 600.0  # seconds
IN_A_ROW = 8


class Service:
    """`shortlist serve` as a process."""

    def __init__(self, repository: Path, instances: int) -> None:
        self.address: Address = free_address()
        self.instances = instances
        ports = ["--grpc-port", str(self.address.grpc_port), "--metrics-port", str(self.address.metrics_port)]
        command = [sys.executable, "-m", "shortlist.cli.main", "serve", str(repository), *ports]
        self._command = [*command, "--instances", str(instances)]
        self.start()

    def start(self) -> None:
        """Start it, again where it was killed."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def server(self) -> psutil.Process:
        """Triton."""
        found = [c for c in psutil.Process(self.process.pid).children() if c.name().startswith("triton")]
        if not found:
            raise ServerError("Triton does not run")
        return found[0]

    @property
    def stubs(self) -> list[psutil.Process]:
        """The processes of its models, the newest first."""
        return sorted(self.server.children(), key=lambda child: (child.create_time(), child.pid), reverse=True)

    def answers(self) -> bool:
        """Whether all is as it should be."""
        try:
            living = [stub for stub in self.stubs if not is_dead(stub)]
            with Client(self.address.grpc, timeout=5.0) as client:
                return len(living) >= self.instances and all(client.recommend("") for _ in range(IN_A_ROW))
        except (ShortlistError, psutil.NoSuchProcess):
            if self.process.poll() is not None:
                self.start()  # it found its ports in use
            return False

    def seconds_until_it_answers(self) -> float:
        """From now on. Raises ServerError when it takes too long."""
        started = time.monotonic()
        while not self.answers():
            if time.monotonic() - started > LIMIT:
                raise ServerError(f"it does not answer again within {LIMIT:g} s")
            time.sleep(0.05)
        return time.monotonic() - started


@contextmanager
def serving(repository: Path, instances: int) -> Iterator[Service]:
    """A service that answers; it ends with the block."""
    service = Service(repository, instances)
    try:
        service.seconds_until_it_answers()
        yield service
    finally:
        service.process.terminate()
        service.process.wait()


def kill_supervisor(service: Service) -> None:
    """It is started again at once."""
    service.process.kill()
    service.process.wait()
    service.start()


HARMS: dict[str, Callable[[Service], object]] = {
    "a stub killed": lambda service: service.stubs[0].kill(),
    "all stubs killed": lambda service: kill_all(service.stubs),
    "a stub stopped": lambda service: service.stubs[0].suspend(),
    "the server killed": lambda service: service.server.kill(),
    "the server stopped": lambda service: service.server.send_signal(signal.SIGSTOP),
    "the supervisor killed": kill_supervisor,
}


def run(bundle: Path, folder: Path, rounds: int, instances: int) -> dict[str, dict[str, float]]:
    """Median, fastest and slowest recovery of each harm, in seconds; harms take turns."""
    build_repository(bundle, folder / "repository", instances=instances)
    times: dict[str, list[float]] = {name: [] for name in HARMS}
    with serving(folder / "repository", instances) as service:
        for _ in range(rounds):
            for name, harm in HARMS.items():
                harm(service)
                times[name].append(service.seconds_until_it_answers())
    return {name: {"median": median(t), "min": min(t), "max": max(t)} for name, t in times.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run, or of its bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-recovery-") as folder:
        found = run(find_bundle(asked.run), Path(folder), asked.rounds, asked.instances)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
