"""The servers under test, each in processes of its own: the cascade and the ensemble on Triton, FastAPI, LitServe.

A `Server` says how to reach one and which processes its CPU time is made of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shortlist.bundle import Bundle, bundle_folder
from shortlist.errors import ServerError
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE, ENSEMBLE, STAGES
from shortlist.serving.triton import one_thread_each

HOST = "127.0.0.1"
PEERS = "shortlist.serving.benchmark.peers"
START = 120.0  # seconds that a server may take


@dataclass(frozen=True)
class Server:
    """A running server, as the load generator wants it."""

    name: str
    protocol: str  # grpc or http
    ports: tuple[int, ...]
    pids: tuple[int, ...]  # of the processes that started all others
    model: str = ""
    host: str = HOST
    restless: bool = False  # takes CPU time while nobody asks: stopped while others are measured, see `awake`


def at_full_effort(bundle: Path, out: Path) -> Path:
    """The same bundle at `out`, of hard links where the disk allows, that never does less under load, nor remembers."""
    opened = Bundle.open(bundle, verify=False)
    settings = opened.metadata["cascade"] | {"efforts": [1.0], "cached_slates": 0}
    with bundle_folder(out, opened.metadata | {"cascade": settings}) as folder:
        for name in opened.files:
            try:
                os.link(opened.file(name), folder / name)
            except OSError:
                shutil.copyfile(opened.file(name), folder / name)
    return out


@contextlib.contextmanager
def cascade(bundle: Path, folder: Path, name: str, instances: int = 2) -> Iterator[Server]:
    """The product: one Triton model with all stages."""
    build_repository(bundle, folder, instances=instances)
    with Supervisor(folder, free_address(), models=[CASCADE.name]) as supervisor:
        ports = (supervisor.address.grpc_port,)
        yield Server(name, "grpc", ports, (supervisor.server.pid,), CASCADE.name)


@contextlib.contextmanager
def ensemble(bundle: Path, folder: Path, name: str, instances: int = 2) -> Iterator[Server]:
    """The stage models and Triton's ensemble over them; `cascade` stays unloaded."""
    build_repository(bundle, folder, instances=instances, stages=True)
    models = [model.name for model in (*STAGES, ENSEMBLE)]
    with Supervisor(folder, free_address(), models=models) as supervisor:
        ports = (supervisor.address.grpc_port,)
        yield Server(name, "grpc", ports, (supervisor.server.pid,), ENSEMBLE.name)


@contextlib.contextmanager
def fastapi(bundle: Path, name: str, batch: bool, workers: int = 2) -> Iterator[Server]:
    """The lean FastAPI server: one process and port for each worker."""
    options = ["--batch"] if batch else []
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_program("lean_fastapi", bundle, options)) for _ in range(workers)]
        for process, port in started:
            _wait_for(process, port)
        yield Server(name, "http", tuple(port for _, port in started), tuple(process.pid for process, _ in started))


@contextlib.contextmanager
def litserve(bundle: Path, name: str) -> Iterator[Server]:
    """LitServe with two workers behind one process. They poll: one and a half cores, with nothing to do."""
    with _program("lit", bundle, []) as (process, port):
        _wait_for(process, port)
        yield Server(name, "http", (port,), (process.pid,), restless=True)


@contextlib.contextmanager
def awake(server: Server) -> Iterator[None]:
    """Let a restless server run for as long as it is asked."""
    if not server.restless:
        yield
        return
    group = os.getpgid(server.pids[0])
    os.killpg(group, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGSTOP)


@contextlib.contextmanager
def _program(module: str, bundle: Path, options: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A peer's module on a free port, in a session of its own, all of which is killed in the end."""
    port = free_address().grpc_port
    process = subprocess.Popen(
        [sys.executable, "-m", f"{PEERS}.{module}", str(bundle), str(port), *options],
        env=one_thread_each(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise ServerError(f"{process.args!r} does not listen on port {port}; what it printed says why")
