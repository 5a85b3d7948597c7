"""Keeps a Triton server answering: starts it, loads its models, and brings back whatever dies.

Triton 2.51 neither restarts a Python stub that was killed nor says so in its readiness. So this watches the stub
processes, feels the cascade's `pulse`, and reloads the model or restarts the server. It also loads a newer version of a
model as soon as its folder appears; one that does not load is refused, and the one before goes on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from shortlist.errors import ServerError, ShortlistError
from shortlist.serving.control import Control
from shortlist.serving.process import Address, TritonServer, is_dead, kill_all
from shortlist.serving.pulse import Pulse
from shortlist.serving.status import Status, StatusFile
from shortlist.serving.tensors import CASCADE
from shortlist.serving.tls import ServerTls
from shortlist.serving.triton import TritonInstall, find_triton
from shortlist.serving.versions import Refused, check_repository, loadable, touch
from shortlist.serving.watch import Watch, load_beside
from shortlist.serving.where import Where


@dataclass
class _Loaded:
    version: str
    stubs: list[psutil.Process] = field(default_factory=list)


class Supervisor:
    """A served repository. Use as a context manager, or `start` and `stop`."""

    def __init__(
        self,
        repository: Path,
        address: Address | None = None,
        *,
        models: Sequence[str] = (CASCADE.name,),
        instances: int | None = None,
        where: Where | None = None,
        ready: Callable[[str], bool] = lambda _: True,
        install: TritonInstall | None = None,
        watch: Watch | None = None,
        on_log: Callable[[str], None] | None = None,
        on_event: Callable[[str], None] | None = None,
        tls: ServerTls | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`instances` of each model: as the repository says when None. `where` overrides what it says of its device.
        A new version waits until it is `ready` (a GPU's, for its plans).

        `on_event` is told what the supervisor does; `environment` is for the server's processes.
        """
        self.repository = repository
        self.address = address or Address()
        self.models = tuple(models)
        self.instances = instances
        self.where = where
        self._ready = ready
        self.watch = watch or Watch()
        self.restarts = 0
        self.reloads = 0
        self._tell = on_event or (lambda _: None)
        self._key = secrets.token_hex(16)
        self._tls = tls
        self._server = TritonServer(
            install or find_triton(), repository, self.address, self._key, on_log, tls, environment
        )
        self._control: Control | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._proven: set[Path] = set()  # version folders that were served: what fails now is not their fault
        self._refused = Refused()
        self._status_file = StatusFile(repository, self.address.grpc)
        self._pulse = Pulse(self.watch)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def server(self) -> TritonServer:
        """The server process."""
        return self._server

    def start(self) -> None:
        """Start the server, load the models, and watch from a thread. Raises ServerError when that fails."""
        check_repository(self.repository, self.models)
        self._thread = threading.Thread(target=self._run, name="shortlist-supervisor", daemon=True)
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and end the server."""
        self._stopping.set()
        if self._thread and self._thread.is_alive():
            self._thread.join(timeout=2.0)
            if self._thread.is_alive():
                self._server.kill()  # ends whatever repair it is waiting for
                self._thread.join()
        self._bring_down()
        self._status_file.remove()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until `stop` was called (True) or `timeout` seconds passed (False)."""
        return self._stopping.wait(timeout)

    def check(self) -> None:
        """Look once; repair what is broken. Raises ServerError when a repair fails."""
        if not self._server.alive:
            return self._restart(f"the server ended with exit code {self._server.exit_code}")
        for model, loaded in self._loaded.items():
            if any(is_dead(stub) for stub in loaded.stubs):
                return self._reload(model, f"a process of {model} was killed")
        for model, loaded in self._loaded.items():
            if int(self._newest(model) or 0) > int(loaded.version):
                return self._upgrade(model)
        if self._pulse.due:
            self._pulse.rest()
            self._check_pulse()
        missing = [model for model in self.models if model not in self._loaded]
        return self._load_newest(missing[0]) if missing else None

    def _run(self) -> None:
        backoff = 0.5
        while not self._stopping.wait(self.watch.every):
            try:
                self.check()
                backoff = 0.5
            except ShortlistError as error:
                self._tell(f"{error}; next try in {backoff:g} s")
                self._stopping.wait(backoff)
                backoff = min(2 * backoff, self.watch.max_backoff)

    def _check_pulse(self) -> None:
        assert self._control is not None
        trouble = self._pulse.trouble(self._control) if CASCADE.name in self._loaded else None
        if trouble and trouble.server:
            self._restart(trouble.why)
        elif trouble:
            self._reload(CASCADE.name, trouble.why, trouble.hung)

    def _bring_up(self) -> None:
        tls = self._tls.supervisor() if self._tls else None
        self._server.start()
        self._control = Control(self.address, self._key, tls)
        if not self._control.wait_until_live(lambda: self._server.alive, self.watch.start_timeout):
            raise ServerError(f"Triton did not start; its last words:\n{self._server.log_tail}")
        for model in self.models:
            self._load_newest(model)
        self._pulse.rest()

    def _bring_down(self) -> None:
        self._disconnect()
        self._server.stop()

    def _disconnect(self) -> None:
        if self._control:
            self._control.close()
            self._control = None
        self._loaded.clear()

    def _newest(self, model: str) -> str | None:
        """The newest version that is not refused; of a stage model, none newer than the cascade's."""
        loaded = self._loaded.get(CASCADE.name)
        limit = int(loaded.version) if loaded and model != CASCADE.name else float("inf")
        folder = self.repository / model
        allowed = [n for n in map(int, loadable(folder)) if n <= limit and folder / str(n) not in self._refused]
        return next((str(n) for n in sorted(allowed, reverse=True) if self._ready(str(n))), None)

    def _load_newest(self, model: str) -> None:
        """Load the newest version that loads. Raises the first refusal where none does."""
        first: ServerError | None = None
        while version := self._newest(model):
            try:
                return self._load(model, version)
            except ServerError as error:
                if self.repository / model / version in self._proven:
                    raise
                self._refuse(model, version, error)
                if not self._server.alive:
                    raise
                first = first or error
        raise first or ServerError(f"{self.repository}: no version of {model!r} is left to load")

    def _upgrade(self, model: str) -> None:
        """Load a newer version beside the one that answers, which goes on if that fails."""
        version, old = self._newest(model), self._loaded[model].version
        assert version
        self._tell(f"{model} has a new version, {version}: loading it")
        started = time.monotonic()
        try:
            self._load(model, version, beside=True)
        except ServerError as error:
            self._refuse(model, version, error)
            self._tell(f"{model} goes on with version {old}")
        else:
            self._tell(f"{model} serves version {version} in place of {old}, after {time.monotonic() - started:.1f} s")

    def _refuse(self, model: str, version: str, error: ServerError) -> None:
        """Never load this version again, unless its folder is replaced."""
        self._refused.add(self.repository / model / version, str(error))
        self._tell(f"{model} REFUSED version {version}: {error}")
        self._say()

    def _say(self, loading: str | None = None) -> None:
        """Write the status file."""
        loaded = self._loaded.get(CASCADE.name)
        serving, refused = loaded.version if loaded else None, self._refused.of(self.repository / CASCADE.name)
        self._status_file.write(Status(self.address.grpc, serving=serving, loading=loading, refused=refused))

    def _load(self, model: str, version: str, beside: bool = False) -> None:
        """Load beside whatever runs, then switch; remembers which processes must stay alive from now on."""
        assert self._control is not None
        self._say(loading=version)
        before = {stub.pid for stub in self._server.stubs()}
        repairs = {"restart": self.restarts, "reload": self.reloads}
        folder = self.repository / model
        load = partial(self._control.load, folder, version, self.instances, where=self.where, repairs=repairs)
        if beside:
            load_beside(load, partial(self._pulse.beats, self._control), self._server.kill, self.watch)
        else:
            load()
        self._loaded[model] = _Loaded(version, [s for s in self._server.stubs(model, version) if s.pid not in before])
        self._proven.add(self.repository / model / version)
        self._pulse.forget()
        self._say()
        self._restore_stages(before)

    def _restore_stages(self, before: set[int]) -> None:
        """Load again what an ensemble brought along: Triton reads its stages from disk, whatever we had asked of them.

        It does so where `instances` or `where` differ from the disk.
        """
        for model, loaded in list(self._loaded.items()):
            ours = before.union(stub.pid for stub in loaded.stubs)
            if any(stub.pid not in ours for stub in self._server.stubs(model)):
                self._load(model, loaded.version)

    def _reload(self, model: str, why: str, hung: bool = False) -> None:
        """Fresh processes for a model. Living instances answer until the new ones are ready."""
        assert self._control is not None
        self.reloads += 1
        started, loaded = time.monotonic(), self._loaded[model]
        version, stubs, loaded.stubs = loaded.version, loaded.stubs, []
        kill_all(stub for stub in stubs if hung or is_dead(stub))  # hung or stopped, one would never leave by itself
        self._tell(f"{why}: loading it again")
        try:
            if not touch(self.repository / model / version):
                self._control.unload(model)
            self._load(model, version)
        except ServerError as error:
            self._restart(str(error))
            return
        self._tell(f"{model} answers again after {time.monotonic() - started:.1f} s")

    def _restart(self, why: str) -> None:
        if self._stopping.is_set():
            return
        self.restarts += 1
        started = time.monotonic()
        self._tell(f"{why}: restarting the server")
        self._disconnect()
        self._say()
        self._server.stop(drain=0.0)
        self._bring_up()
        self._tell(f"the server answers again after {time.monotonic() - started:.1f} s")
