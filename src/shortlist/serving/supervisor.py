"""Keeps a Triton server answering: starts it, loads its models, and brings back whatever dies.

Triton 2.51 neither restarts a Python stub that was killed nor says so in its readiness. So this watches the stub
processes, sends a canary inference every second, and reloads the model or restarts the server. It also loads a newer
version of a model as soon as its folder appears.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shortlist.errors import ServerError
from shortlist.serving.control import Control
from shortlist.serving.model_config import PLAN
from shortlist.serving.process import Address, TritonServer
from shortlist.serving.tensors import CASCADE, ENSEMBLE
from shortlist.serving.triton import TritonInstall, find_triton
from shortlist.serving.where import Where

_ALIVE_CODES = ("INVALID_ARGUMENT", "CANCELLED")  # a refusal proves that the stub executes
_SLOW_CODES = ("DEADLINE_EXCEEDED", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Watch:
    """How closely the supervisor looks, in seconds."""

    every: float = 0.25
    canary_every: float = 1.0
    canary_timeout: float = 2.0
    start_timeout: float = 60.0
    max_backoff: float = 30.0


@dataclass
class _Loaded:
    versions: frozenset[str]
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
        install: TritonInstall | None = None,
        watch: Watch | None = None,
        on_log: Callable[[str], None] | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """`instances` of each model: as the repository says when None. `where` overrides what it says of its device.

        `on_event` is told what the supervisor does.
        """
        self.repository = repository
        self.address = address or Address()
        self.models = tuple(models)
        self.instances = instances
        self.where = where
        self.watch = watch or Watch()
        self.restarts = 0
        self.reloads = 0
        self._tell = on_event or (lambda _: None)
        self._key = secrets.token_hex(16)
        self._server = TritonServer(install or find_triton(), repository, self.address, self._key, on_log)
        self._control: Control | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._answered: int | None = None  # requests answered at the last canary that got no answer
        self._next_canary = 0.0
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
            self._bring_down()
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

    def wait(self, timeout: float | None = None) -> bool:
        """Block until `stop` was called (True) or `timeout` seconds passed (False)."""
        return self._stopping.wait(timeout)

    def check(self) -> None:
        """Look once; repair what is broken. Raises ServerError when a repair fails."""
        if not self._server.alive:
            return self._restart(f"the server ended with exit code {self._server.exit_code}")
        for model, loaded in self._loaded.items():
            if any(_is_dead(stub) for stub in loaded.stubs):
                return self._reload(model, f"a process of {model} was killed")
        for model, loaded in self._loaded.items():
            if _versions(self.repository / model) > loaded.versions:
                return self._load(model, f"{model} has a new version")
        if time.monotonic() >= self._next_canary:
            self._next_canary = time.monotonic() + self.watch.canary_every
            self._check_canary()
        return None

    def _run(self) -> None:
        backoff = 0.5
        while not self._stopping.wait(self.watch.every):
            try:
                self.check()
                backoff = 0.5
            except ServerError as error:
                self._tell(f"{error}; next try in {backoff:g} s")
                self._stopping.wait(backoff)
                backoff = min(2 * backoff, self.watch.max_backoff)

    def _check_canary(self) -> None:
        assert self._control is not None
        if CASCADE.name not in self.models:
            return
        code = self._control.canary(self.watch.canary_timeout)
        if code is None or code in _ALIVE_CODES:
            self._answered = None
        elif not self._control.live():
            self._restart("the server does not answer")
        elif code in _SLOW_CODES:
            self._check_progress()
        else:
            self._reload(CASCADE.name, f"the canary failed ({code})")

    def _check_progress(self) -> None:
        """After a canary without an answer: as long as others get answers, the server is busy, not dead."""
        assert self._control is not None
        answered = self._control.answered(CASCADE.name)
        if answered is not None and answered == self._answered:
            self._reload(CASCADE.name, "no request is answered", hung=True)
        else:
            self._answered = answered
            self._next_canary = time.monotonic()

    def _bring_up(self) -> None:
        self._server.start()
        self._control = Control(self.address, self._key)
        if not self._control.wait_until_live(lambda: self._server.alive, self.watch.start_timeout):
            raise ServerError(f"Triton did not start; its last words:\n{self._server.log_tail}")
        for model in self.models:
            self._load(model)
        self._next_canary = time.monotonic() + self.watch.canary_every

    def _bring_down(self) -> None:
        if self._control:
            self._control.close()
            self._control = None
        self._loaded.clear()
        self._server.stop()

    def _load(self, model: str, why: str | None = None) -> None:
        """Load beside whatever runs, then switch; remembers which processes must stay alive from now on."""
        assert self._control is not None
        if why:
            self._tell(f"{why}: loading it")
        before = {stub.pid for stub in self._server.stubs()}
        versions = _versions(self.repository / model)
        try:
            self._control.load(self.repository / model, self.instances, where=self.where)
        finally:
            self._loaded.setdefault(model, _Loaded(versions)).versions = versions
        self._loaded[model] = _Loaded(versions, [s for s in self._server.stubs() if s.pid not in before])
        self._answered = None

    def _reload(self, model: str, why: str, hung: bool = False) -> None:
        """Fresh processes for a model. Living instances answer until the new ones are ready."""
        assert self._control is not None
        self.reloads += 1
        started = time.monotonic()
        for stub in self._loaded[model].stubs:
            if hung or _is_dead(stub):
                with contextlib.suppress(psutil.NoSuchProcess):
                    stub.kill()  # hung or stopped, it would never leave by itself
        self._loaded[model].stubs = []
        try:
            if not _touch(self.repository / model):
                self._control.unload(model)
            self._load(model, why)
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
        if self._control:
            self._control.close()
            self._control = None
        self._loaded.clear()
        self._server.stop(drain=0.0)
        self._bring_up()
        self._tell(f"the server answers again after {time.monotonic() - started:.1f} s")


def check_repository(repository: Path, models: Sequence[str]) -> None:
    """Raise ServerError when a model to be served is not in the repository."""
    for model in models:
        folders = _folders(repository / model)
        if not (repository / model / "config.pbtxt").is_file() or not folders:
            raise ServerError(
                f"{repository}: has no model {model!r} (config.pbtxt and a version folder); "
                "make a repository with `shortlist export RUN --target cpu --out DIR`"
            )
        if unfinished := folders - _versions(repository / model):
            folder = repository / model / max(unfinished, key=int)  # Triton would wait for its process forever
            program = PLAN if (folder / "model.onnx").exists() else "model.py"
            raise ServerError(f"{folder}: has no {program}; remove the folder, or export again into a new one")


def _versions(model_folder: Path) -> frozenset[str]:
    """Versions that can be loaded: a folder that is still being copied has no model yet; an ensemble needs none."""
    folders = _folders(model_folder)
    if model_folder.name == ENSEMBLE.name:
        return folders
    return frozenset(name for name in folders if _model_file(model_folder / name))


def _model_file(version: Path) -> Path | None:
    """What a version folder holds for Triton to load: model.py, or a plan."""
    return next((path for path in (version / "model.py", version / PLAN) if path.is_file()), None)


def _folders(model_folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in os.scandir(model_folder) if entry.name.isdecimal())
    except OSError:
        return frozenset()


def _touch(model_folder: Path) -> bool:
    """Make Triton see changed versions, so that loading starts new processes; False in a read-only repository.

    A newer config.pbtxt alone is not enough: Triton then keeps the instances it has, dead ones included.
    """
    try:
        for version in _versions(model_folder):
            os.utime(_model_file(model_folder / version) or model_folder / version)
    except OSError:
        return False
    return True


def _is_dead(stub: psutil.Process) -> bool:
    """Gone, a zombie, or stopped: it will not answer."""
    try:
        return stub.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return True
