"""Plans on disk: each beside a JSON manifest that says what it was made from, for what, and by which builder.

A plan is only ever used when its manifest says exactly what is asked and its bytes match their checksum; otherwise it
is built again, or refused where building is not allowed. Nothing here executes a plan.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from shortlist.errors import BundleError, ConfigError
from shortlist.export.tensorrt import WORKSPACE, Backend, Built, Layer, Profile, build, used_axes


@dataclass(frozen=True)
class Recipe:
    """All that decides what a plan is. Two plans of one recipe may be exchanged."""

    model: str
    precision: str
    sm: int  # compute capability, 89 for 8.9
    graph: str  # sha256 of the ONNX graph
    builder: str
    version: str  # of the builder; plans are not portable between versions
    profiles: list[dict[str, list[int]]]
    workspace: int = WORKSPACE

    @property
    def stem(self) -> str:
        """File name without suffix: readable, and of its own for every recipe."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.model}-{self.precision}-sm{self.sm}-{digest[:12]}"


@dataclass(frozen=True)
class Engine:
    """A plan that was found or built."""

    path: Path
    recipe: Recipe
    bytes: int
    seconds: float  # that building it took, whenever that was
    layers: tuple[Layer, ...]
    built: bool  # now, as opposed to found


class Manifest(BaseModel, extra="forbid"):
    """What stands beside a plan, as JSON."""

    format_version: Literal[1] = 1
    recipe: Recipe
    size: int
    sha256: str
    seconds: float
    layers: list[Layer]


def make_recipe(
    model: str, precision: str, graph: bytes, profiles: Sequence[Profile], sm: int, backend: Backend
) -> Recipe:
    """What a plan of `graph` would be, built by `backend` with one profile per bucket."""
    sizes = [{axis: list(size) for axis, size in profile.items()} for profile in used_axes(graph, profiles)]
    digest = hashlib.sha256(graph).hexdigest()
    return Recipe(model, precision, sm, digest, backend.name, backend.version, sizes)


class EngineCache:
    """A folder of plans, shared by processes: one builds at a time, so that none disturbs what another measures."""

    def __init__(self, folder: Path, backend: Backend, *, may_build: bool = True) -> None:
        self.folder, self.backend, self.may_build = folder, backend, may_build

    def engine(self, model: str, precision: str, graph: bytes, profiles: Sequence[Profile], sm: int) -> Engine:
        """The plan of `graph`, from the folder when one fits, else built now.

        Raises BundleError when none fits and building is not allowed, or the builder refuses the graph; ConfigError
        when it cannot build for `sm`, or the folder cannot be written.
        """
        recipe = make_recipe(model, precision, graph, profiles, sm, self.backend)
        path = self.folder / f"{recipe.stem}.plan"
        with contextlib.suppress(BundleError):
            return open_engine(path, recipe)
        if not self.may_build:
            return self._prebuilt(path, recipe)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "build.lock"):
                with contextlib.suppress(BundleError):
                    return open_engine(path, recipe)  # by another process, meanwhile
                return self._built(path, recipe, graph, profiles)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: cannot keep plans ({error.strerror or error}); free space or choose another folder"
            ) from error

    def _prebuilt(self, path: Path, recipe: Recipe) -> Engine:
        """The plan, or a refusal that says how those that are there differ."""
        if path.exists():
            return open_engine(path, recipe)
        others = sorted(self.folder.glob(f"{recipe.model}-{recipe.precision}-sm*.json"))
        found = "; ".join(f"{other.stem} has {_differences(_read_manifest(other).recipe, recipe)}" for other in others)
        raise BundleError(
            f"{path}: no such plan ({found or f'none for {recipe.model} in {recipe.precision}'}); "
            f"build it on this machine with {recipe.builder} {recipe.version}"
        )

    def _built(self, path: Path, recipe: Recipe, graph: bytes, profiles: Sequence[Profile]) -> Engine:
        timing = TimingCache(self.folder, recipe)
        built = build(graph, profiles, recipe.sm, self.backend, timing.read())
        timing.write(built.timing)
        write_plan(path, recipe, built)
        return Engine(path, recipe, len(built.plan), built.seconds, built.layers, built=True)


def write_plan(path: Path, recipe: Recipe, built: Built) -> None:
    """Write a plan, then the manifest that vouches for it; each appears whole or not at all."""
    checksum = hashlib.sha256(built.plan).hexdigest()
    manifest = Manifest(
        recipe=recipe, size=len(built.plan), sha256=checksum, seconds=built.seconds, layers=list(built.layers)
    )
    _write(path, built.plan)
    _write(path.with_suffix(".json"), manifest.model_dump_json(indent=1).encode())


def open_engine(path: Path, recipe: Recipe) -> Engine:
    """The plan at `path`, its manifest and checksum verified against `recipe`.

    Raises BundleError when a file is missing or damaged, or the plan is of another recipe, saying how it differs.
    """
    manifest = _read_manifest(path.with_suffix(".json"))
    if different := _differences(manifest.recipe, recipe):
        raise BundleError(f"{path}: is another plan than asked for: {different}; build it again")
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); build it again") from None
    if len(plan) != manifest.size or hashlib.sha256(plan).hexdigest() != manifest.sha256:
        raise BundleError(f"{path}: does not match its checksum (sha256); build it again")
    return Engine(path, recipe, manifest.size, manifest.seconds, tuple(manifest.layers), built=False)


class TimingCache:
    """What earlier builds measured on this kind of GPU with this builder: bytes that only the builder understands."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.path = folder / f"{recipe.builder}-{recipe.version}-sm{recipe.sm}.timing"

    def read(self) -> bytes:
        """Its content, empty when there is none or it is damaged: it only saves time."""
        try:
            checksum, content = self.path.read_bytes().split(b"\n", 1)
        except (OSError, ValueError):
            return b""
        return content if hashlib.sha256(content).hexdigest().encode() == checksum else b""

    def write(self, content: bytes) -> None:
        """Replace it, unless the builder keeps none."""
        if content:
            _write(self.path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def _differences(found: Recipe, wanted: Recipe) -> str:
    """How one recipe differs from the one wanted; empty when it does not."""
    has, asked = asdict(found), asdict(wanted)
    return ", ".join(f"{k} = {_short(has[k])} instead of {_short(asked[k])}" for k in asked if has[k] != asked[k])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); build the plan again") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: is no manifest of a plan ({where}: {first['msg']}); build the plan again") from None


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Held by one process at a time; the file stays, since removing it would let two in.

    `on_wait` is called where another one has it. Raises OSError where the file cannot be written.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    handle, staging = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(staging).chmod(0o644)
        Path(staging).replace(path)
    except BaseException:
        Path(staging).unlink(missing_ok=True)
        raise
