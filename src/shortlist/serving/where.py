"""Settles before Triton starts what a repository is served on, and completes its plans.

A demand for a GPU that is not there is refused here, at once, instead of by models that never get ready.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shortlist.errors import ConfigError
from shortlist.serving.model_config import ENGINES, device_of, gpus_of, read_config
from shortlist.serving.tensors import CASCADE

WANTED = ("cpu", "gpu", "auto")


@dataclass(frozen=True)
class Where:
    """What was wanted, what it came to, and why, where that differs."""

    wanted: str
    device: str  # cpu or gpu
    note: str = ""


def settle(
    repository: Path,
    wanted: str | None,
    tell: Callable[[str], None],
    instances: int | None = None,
    stages: bool = False,
) -> Where:
    """Where to serve `repository`: as `wanted`, by default as it says itself; for a GPU its plans are completed.

    Raises ConfigError when a GPU is demanded and cannot be used, has no room for `instances` by the limit given at
    export, `instances` are asked for of `stages`, whose plans have one, or plans cannot be built.
    """
    if wanted not in (None, *WANTED):
        raise ConfigError(f"--device = {wanted!r}: {', '.join(WANTED)} is allowed")
    config = repository / CASCADE.name / "config.pbtxt"
    own = device_of(config) if config.is_file() else "cpu"
    wanted = wanted or own
    if wanted == "cpu":
        return Where(wanted, "cpu")
    missing = (
        _missing(repository)
        if own == "gpu"
        else (f"{repository} is for the CPU; make one for a GPU with `shortlist export RUN --target gpu --out DIR`")
    )
    if missing and wanted == "gpu":
        raise ConfigError(f"--device = 'gpu': {missing} (or choose --device auto or cpu)")
    if missing:
        tell(f"serving on the CPU: {missing}")
        return Where(wanted, "cpu", missing)
    if stages and instances is not None:
        raise ConfigError(
            f"--instances = {instances}: not allowed with --stages on a GPU, as filter and ranker have one instance on "
            "each; leave it out, and choose those of cascade with `shortlist export --instances`"
        )
    _check_room(repository, instances)
    _complete(repository, tell)
    return Where(wanted, "gpu")


def _missing(repository: Path) -> str:
    from shortlist.devices.probe import what_is_missing

    config = read_config(repository / CASCADE.name / "config.pbtxt")
    return what_is_missing(repository / CASCADE.name / str(_newest(repository)) / ENGINES, gpus_of(config).numbers)


def _check_room(repository: Path, instances: int | None) -> None:
    allowed = gpus_of(read_config(repository / CASCADE.name / "config.pbtxt")).memory
    if allowed is None:
        return
    from shortlist.serving.memory import check_memory

    check_memory(repository, str(_newest(repository)), allowed, instances)


def _complete(repository: Path, tell: Callable[[str], None]) -> None:
    from shortlist.serving.plans import complete, find_builder

    complete(repository, str(_newest(repository)), find_builder(), tell)


def _newest(repository: Path) -> int:
    return max((int(e.name) for e in (repository / CASCADE.name).iterdir() if e.name.isdecimal()), default=0)
