"""One Triton server process: its command line, its ports, its log, and how it is stopped.

Watching over it and loading models is the business of `supervisor`; talking to it, of `control` and `client`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from shortlist.errors import ServerError
from shortlist.serving.tls import ServerTls
from shortlist.serving.triton import TritonInstall

STUB_TIMEOUT = 120  # seconds that a Python process may take to load; after them (30 by default) Triton hangs
CONTROL_HEADER = "shortlist-control"
_RESTRICTED = "model-repository,shared-memory,trace,logging"  # what callers of the inference port must not reach
# The server gets SIGTERM when the thread that started it ends: a killed supervisor leaves no orphan on its ports. One
# that was killed before we asked for that is not our parent any more.
_LAUNCH = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_SHARED_MEMORY = Path("/dev/shm")
_LAST_WORDS = 2.0  # seconds in which the log of a server that has ended is read to its end
# What SIGTERM does not end goes 2 s after the supervisor's end of a pipe is closed: a stub that is loading notices
# neither that nor the end of its server, which waits for it.
_GUARD = 'read -r _; sleep 2; kill -s KILL -- "-$0" 2>/dev/null; rm -f "$1"*'


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens. HTTP is off unless it has a port."""

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    metrics_port: int = 8002
    http_port: int | None = None

    @property
    def grpc(self) -> str:
        """host:port of the inference service."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        """URL of the Prometheus endpoint."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    def check(self) -> None:
        """Raise ServerError when a port is taken or named twice, or the host is not of this machine."""
        self.check_distinct({})
        for option, port in self._named().items():
            _check_free(self.host, port, option)

    def check_distinct(self, others: Mapping[str, int]) -> None:
        """Raise ServerError when an option names the port of another, `others` among them."""
        owners: dict[int, str] = {}
        for option, port in {**self._named(), **others}.items():
            if owner := owners.get(port):
                raise ServerError(f"{option} = {port}: is {owner} already; choose another")
            owners[port] = option

    def _named(self) -> dict[str, int]:
        """The ports by the options that name them."""
        http = {} if self.http_port is None else {"--http-port": self.http_port}
        return {"--grpc-port": self.grpc_port, "--metrics-port": self.metrics_port, **http}


def free_address(host: str = "127.0.0.1", http: bool = False) -> Address:
    """An address of ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        ports = [_listening(stack, host).getsockname()[1] for _ in range(3)]
    return Address(host, ports[0], ports[1], ports[2] if http else None)


class TritonServer:
    """A tritonserver process in explicit model control: it starts without models, see `control.Control.load`."""

    def __init__(
        self,
        install: TritonInstall,
        repository: Path,
        address: Address,
        key: str,
        on_log: Callable[[str], None] | None = None,
        tls: ServerTls | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`key` opens model control, which others are refused; `on_log` is told each line of the server's log.

        `environment` is what its processes get beside their usual one.
        """
        self.install = install
        self.repository = repository.resolve()
        self.address = address
        self._key = key
        self._on_log = on_log
        self._tls = tls
        self._environment = dict(environment or {})
        self._shm_prefix = f"shortlist-{uuid4().hex[:12]}-"
        self._tail: deque[str] = deque(maxlen=200)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises ServerError when a port is taken or the program cannot run."""
        self.address.check()
        command = ends_with_us([str(self.install.server), *self._arguments()])
        with _signals_wait():
            self._process = subprocess.Popen(
                command,
                env=self.install.environment() | self._environment,
                cwd=self.install.root,  # stubs have their working directory on sys.path: it must not be the caller's
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for us; we stop the server in order
            )
            self._reader = threading.Thread(
                target=self._read_log, args=(self._process,), name="triton-log", daemon=True
            )
            self._reader.start()
            family = [str(self._process.pid), str(_SHARED_MEMORY / self._shm_prefix)]
            self._guard = subprocess.Popen(["sh", "-c", _GUARD, *family], stdin=subprocess.PIPE, start_new_session=True)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def log_tail(self) -> str:
        """The last lines of the server's log, up to its end where it has ended."""
        if not self.alive and self._reader:
            self._reader.join(_LAST_WORDS)
        return "\n".join(self._tail)

    def stubs(self, model: str | None = None, version: str | None = None) -> list[psutil.Process]:
        """The processes that host model instances now; only those of a model, or of one version of it, where named."""
        try:
            children = psutil.Process(self.pid).children()
            stubs = [c for c in children if c.name().startswith("triton_python")]
            return [c for c in stubs if model is None or _hosts(c, model, version)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, drain: float = 1.0) -> None:
        """End the server: it takes no new requests, those in flight get `drain` seconds, then all processes are killed.

        Triton's own tidying up would take a second for each instance, and 30 when a stub is dead.
        """
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(drain)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also stubs that lost their server while they were loading
        self._process.wait()
        if self._reader:
            self._reader.join(_LAST_WORDS)  # a thread that writes while the interpreter ends would abort it
        for region in _SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)
        if self._guard:
            self._guard.kill()
            self._guard.communicate()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    def _arguments(self) -> list[str]:
        at, root = self.address, self.install.root
        http = ["--http-address", at.host, "--http-port", str(at.http_port)] if at.http_port else []
        return [
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",  # ours are complete; asking would start one more process a model
            f"--backend-directory={root / 'backends'}",
            f"--cache-directory={root / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT}",
            f"--grpc-address={at.host}",
            f"--grpc-port={at.grpc_port}",
            f"--grpc-restricted-protocol={_RESTRICTED}:{CONTROL_HEADER}={self._key}",
            *(self._tls.arguments() if self._tls else []),
            f"--metrics-address={at.host}",
            f"--metrics-port={at.metrics_port}",
            f"--allow-http={'true' if http else 'false'}",
            *http,
            *([f"--http-restricted-api={_RESTRICTED}:{CONTROL_HEADER}={self._key}"] if http else []),
        ]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                text = line.rstrip("\n").replace(self._key, "…")
                self._tail.append(text)
                if self._on_log:
                    self._on_log(text)


def _hosts(stub: psutil.Process, model: str, version: str | None) -> bool:
    """Whether a stub's command line (program, then REPOSITORY/MODEL/VERSION/model.py …) is of this version."""
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        folder = Path(stub.cmdline()[1]).parent
        return folder.parent.name == model and version in (None, folder.name)
    return False


def ends_with_us(command: Sequence[str]) -> list[str]:
    """The command line of a process that gets SIGTERM when the thread that started it ends, however that ends."""
    return [sys.executable, "-ISc", _LAUNCH, str(os.getpid()), *command]


def is_dead(process: psutil.Process) -> bool:
    """Gone, a zombie, or stopped: it will not answer."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return True


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """End processes at once, those that are there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM are handled at the end: one within Popen would lose a process that runs already."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread only
        return
    met: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda number, _: met.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in met:
            signal.raise_signal(late)


def _check_free(host: str, port: int, option: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ServerError(
            f"{option} = {port}: cannot listen on {host}:{port} ({error.strerror or error}); choose another"
        ) from error


def _listening(stack: contextlib.ExitStack, host: str) -> socket.socket:
    bound = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    bound.bind((host, 0))
    return bound
