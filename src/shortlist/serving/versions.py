"""The versions of a model repository as they lie on the disk: which can be loaded, and which is the newest.

What a server makes of them is told by `status`; how they come and go, by `repository` and `deploy`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shortlist.errors import ServerError
from shortlist.serving.model_config import PLAN
from shortlist.serving.tensors import ENSEMBLE


def check_repository(repository: Path, models: Sequence[str]) -> None:
    """Raise ServerError when a model to be served is not in the repository."""
    for model in models:
        folders = version_folders(repository / model)
        if not (repository / model / "config.pbtxt").is_file() or not folders:
            raise ServerError(
                f"{repository}: has no model {model!r} (config.pbtxt and a version folder); "
                "make a repository with `shortlist export RUN --target cpu --out DIR`"
            )
        if unfinished := folders - loadable(repository / model):
            folder = repository / model / max(unfinished, key=int)  # Triton would wait for its process forever
            program = PLAN if (folder / "model.onnx").exists() else "model.py"
            raise ServerError(f"{folder}: has no {program}; remove the folder, or export again into a new one")


def version_folders(model_folder: Path) -> frozenset[str]:
    """The numbers of all version folders; none where there is no such model."""
    try:
        return frozenset(entry.name for entry in os.scandir(model_folder) if entry.name.isdecimal())
    except OSError:
        return frozenset()


def loadable(model_folder: Path) -> frozenset[str]:
    """Versions that can be loaded: a folder that is still being copied has no model yet; an ensemble needs none."""
    folders = version_folders(model_folder)
    if model_folder.name == ENSEMBLE.name:
        return folders
    return frozenset(name for name in folders if _model_file(model_folder / name))


class Refusal(NamedTuple):
    """Why a version folder did not load, and which folder that was."""

    why: str
    identity: tuple[int, int]


class Refused:
    """Version folders that did not load, and why; forgotten as soon as another folder takes the number."""

    def __init__(self) -> None:
        self._entries: dict[Path, Refusal] = {}

    def __contains__(self, version: Path) -> bool:
        return version in self._entries and self._entries[version].identity == identity(version)

    def add(self, version: Path, why: str) -> None:
        """Remember the folder as it is now."""
        self._entries[version] = Refusal(why, identity(version))

    def of(self, model_folder: Path) -> dict[str, Refusal]:
        """Those of one model, by number."""
        return {version.name: refusal for version, refusal in self._entries.items() if version.parent == model_folder}


def identity(version: Path) -> tuple[int, int]:
    """Tells a version folder from another that takes its number later; zeros where there is none."""
    try:
        found = (_model_file(version) or version).stat()
    except OSError:
        return (0, 0)
    return found.st_ino, found.st_mtime_ns


def touch(version: Path) -> bool:
    """Make Triton see a changed version, so that loading starts new processes; False in a read-only repository.

    A newer config.pbtxt alone is not enough: Triton then keeps the instances it has, dead ones included.
    """
    try:
        os.utime(_model_file(version) or version)
    except OSError:
        return False
    return True


def _model_file(version: Path) -> Path | None:
    """What a version folder holds for Triton to load: model.py, or a plan."""
    return next((path for path in (version / "model.py", version / PLAN) if path.is_file()), None)
