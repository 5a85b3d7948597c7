"""From events to slates on one machine, beside a served repository: a store, a log, its consumer and a gateway.

    FOLDER/events   the log; the gateway writes it
    FOLDER/refused  events that the consumer could make nothing of, and why
    FOLDER/store    profiles

Each part is a process of its own; one that ends is started again, and all end with this one. A consumer that cannot go
on until somebody has seen to it is left alone: events stay in the log, profiles as they are, and answers go on with
those. Several machines have a broker and a store instead, and run `shortlist events consume` and `shortlist gateway` by
themselves.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from shortlist.errors import ConfigError, ServerError, ShortlistError
from shortlist.events.consumer import NEEDS_OPERATOR
from shortlist.events.local_log import LocalLog
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.serving.process import ends_with_us

EVENTS, REFUSED, STORE = "events", "refused", "store"
CONSUMER = "consumer"
HOST = "127.0.0.1"  # of gateway and metrics: whoever lets others in needs keys, and starts one of their own
UNTIL_THEN = (
    "Until then profiles stay as they are, answers go on with them, events wait in the log, and its metrics are not "
    "there; docs/profiles.md tells what to do, then start all of this again"
)
LOOK_EVERY = 0.5  # seconds between two looks whether every part is there
START = 30.0  # seconds that the gateway may take to listen
Tell = Callable[[str], object]


class Part(Protocol):
    """A process that is part of it all."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it in order."""


class Command:
    """A `shortlist` command as a process; what it says on standard error is told."""

    def __init__(self, name: str, arguments: Sequence[str], tell: Tell, bundle: Path | None = None) -> None:
        """`bundle` is the one that the arguments name."""
        self.name, self.bundle = name, bundle
        self.words: deque[str] = deque(maxlen=5)
        self._tell = tell
        self.process = subprocess.Popen(
            ends_with_us([sys.executable, "-P", "-m", "shortlist.cli.main", *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us; we stop it in order
        )
        self._reader = threading.Thread(target=self._read, name=f"{name}-log", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    @property
    def needs_operator(self) -> bool:
        """Whether it has ended for a reason that another start would meet again."""
        return self.process.poll() == NEEDS_OPERATOR

    def stop(self) -> None:
        """End it in order, or after ten seconds at once."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self._reader.join(1)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.words.append(line.rstrip("\n"))
                self._tell(f"{self.name}: {self.words[-1]}")


class Realtime:
    """The parts. A context manager that starts store and consumer; `open_gateway` adds the way in for browsers."""

    def __init__(
        self, folder: Path, bundle: Callable[[], Path], tell: Tell = lambda _: None, metrics_port: int | None = None
    ) -> None:
        """`bundle` says which one is served now: the consumer has its categories, the gateway its titles.

        `tell` gets what the parts say. The consumer's metrics are on `metrics_port`, or on a free one.
        """
        self._metrics_port = metrics_port or free_port()
        self.metrics = f"http://{HOST}:{self._metrics_port}/metrics"  # of the consumer
        self.events = folder / EVENTS
        self.store = ""  # its URL, for the environment of instances
        self._folder, self._bundle, self._tell = folder, bundle, tell
        self._makers: dict[str, Callable[[], Part]] = {}
        self._parts: dict[str, Part] = {}
        self._given_up: set[str] = set()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="shortlist-realtime", daemon=True)

    def __enter__(self) -> Realtime:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start store and consumer. Raises ShortlistError when the folder is in use or cannot be used."""
        try:
            LocalLog(self.events).close()  # so that there is one to read before the first event
        except OSError as error:
            raise ConfigError(f"{self._folder}: cannot hold events ({error.strerror or error})") from error
        self._watcher.start()
        try:
            self._start_store()
            said = ["events", "consume", str(self.events), "--profiles", self.store]
            said += ["--dead-letters", str(self._folder / REFUSED), "--metrics-port", str(self._metrics_port)]
            self._add(CONSUMER, partial(self._command, CONSUMER, said, "--bundle"))
        except BaseException:
            self.stop()
            raise

    def open_gateway(self, grpc: str, port: int, options: Sequence[str] = ()) -> str:
        """Start the gateway to the server at `grpc`, with further `options` of its command; gives its URL.

        Raises ServerError when it does not start.
        """
        said = ["gateway", "--grpc", grpc, "--events", str(self.events), "--profiles", self.store, "--port", str(port)]
        make = partial(self._command, "gateway", [*said, *options], "--run")
        check_port(port)
        gateway = make()
        self._add("gateway", make, gateway)
        until = time.monotonic() + START
        while not _listens(port):
            if not gateway.alive or time.monotonic() > until:
                raise ServerError(f"--gateway-port = {port}: the gateway does not start: {' '.join(gateway.words)}")
            time.sleep(0.05)
        return f"http://{HOST}:{port}"

    def stop(self) -> None:
        """End every part in order, the store last."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _command(self, name: str, arguments: Sequence[str], bundle_option: str) -> Command:
        """A part that is a command, with the bundle of now: the one of last time may have been removed."""
        bundle = self._bundle()
        return Command(name, [*arguments, bundle_option, str(bundle)], self._tell, bundle)

    def _start_store(self) -> None:
        """On a socket in its folder, or on a port where the folder's name is too long for that."""
        make = partial(EmbeddedStore, self._folder / STORE)
        try:
            store = make()
        except ConfigError:
            make = partial(make, free_port())
            store = make()
        self.store = store.url
        self._add("store", make, store)

    def _why_anew(self, name: str, part: Part) -> str:
        """Why a part has to start again; empty where it has not, or where that would be in vain."""
        if part.alive:
            is_old = name == CONSUMER and isinstance(part, Command) and part.bundle != self._bundle()
            return "has the categories of another bundle" if is_old else ""
        if not (isinstance(part, Command) and part.needs_operator):
            return "ended"
        if name not in self._given_up:
            self._given_up.add(name)
            self._tell(f"the {name} ended, and would again: somebody has to see to it. {UNTIL_THEN}")
        return ""

    def _add(self, name: str, make: Callable[[], Part], made: Part | None = None) -> None:
        self._parts[name] = made or make()
        self._makers[name] = make

    def _watch(self) -> None:
        """Look after all parts. A part dies with the thread that started it, so this one ends them all, too."""
        while not self._stopping.wait(LOOK_EVERY):
            for name, make in list(self._makers.items()):
                try:
                    if why := self._why_anew(name, self._parts[name]):
                        self._tell(f"the {name} {why}: starting it again")
                        self._parts[name].stop()
                        self._parts[name] = make()
                except (ShortlistError, OSError) as error:
                    self._tell(f"{error}; next try in {LOOK_EVERY:g} s")
        for part in reversed(self._parts.values()):
            part.stop()


def check_port(port: int, option: str = "--gateway-port") -> None:
    """Raise ServerError when nobody can have `port`, because somebody does."""
    if _listens(port):
        raise ServerError(f"{option} = {port}: somebody listens on {HOST}:{port} already; choose another")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
