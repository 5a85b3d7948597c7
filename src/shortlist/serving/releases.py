"""The versions of a repository as people see them: listed with what the servers say of each, published again, removed.

Numbers only grow and a version never changes: going back means the contents of an earlier one under the next number.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shortlist.bundle import Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.serving.status import Status, statuses
from shortlist.serving.tensors import CASCADE
from shortlist.serving.versions import version_folders

SERVING, LOADING, REFUSED, STANDBY = "serving", "loading", "refused", "standby"
DAMAGED = "damaged"


@dataclass(frozen=True)
class Release:
    """One version of a repository."""

    number: int
    bundle: str  # digest, or damaged where its manifest cannot be read
    published: datetime
    bytes: int  # of its files; what other versions or the run link to takes no further space
    state: str  # what the servers over the repository do with it: serving, loading, refused, standby
    why: str = ""  # it was refused


def releases(repository: Path) -> list[Release]:
    """All versions of `cascade`, newest first."""
    said = statuses(repository)
    numbers = sorted(map(int, version_folders(repository / CASCADE.name)), reverse=True)
    return [_release(repository, number, said) for number in numbers]


def bundle_of(repository: Path, number: int) -> Path:
    """Where version `number` keeps its bundle."""
    return repository / CASCADE.name / str(number) / "bundle"


def current(held: Sequence[Release]) -> Release:
    """The version that is served; without a server, the one that the next would serve."""
    serving = [release for release in held if release.state == SERVING]
    return next(iter(serving or [release for release in held if release.state != REFUSED] or held))


def earlier(repository: Path, held: Sequence[Release]) -> Release:
    """The newest version before the current one with another bundle. Raises ConfigError where there is none."""
    now = current(held)
    for release in held:
        if release.number < now.number and release.bundle not in (now.bundle, DAMAGED) and release.state != REFUSED:
            return release
    raise ConfigError(f"{repository}: no version before {now.number} holds another bundle")


def republish(repository: Path, number: int, new: int) -> None:
    """Version `number` of every model once more, as version `new`: hard links to what lies in folders of theirs.

    Raises ConfigError when the disk refuses; the repository is then as it was.
    """
    staging = Path(tempfile.mkdtemp(prefix=".rollback-", dir=repository))
    try:
        models = [folder.parent for folder in sorted(repository.glob(f"*/{number}")) if folder.parent.name[0] != "."]
        for model in models:
            _copy(model / str(number), staging / model.name)
        for model in sorted(models, key=lambda model: model.name != CASCADE.name):
            (staging / model.name).rename(model / str(new))
    except OSError as error:
        raise ConfigError(
            f"{repository}: cannot write version {new} ({error.strerror or error}); free space"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove(repository: Path, number: int) -> None:
    """Take version `number` of every model away; a process that still has it open keeps what it has."""
    retired = Path(tempfile.mkdtemp(prefix=".removed-", dir=repository))
    for folder in repository.glob(f"[!.]*/{number}"):
        folder.rename(retired / folder.parent.name)
    shutil.rmtree(retired, ignore_errors=True)


def prune(repository: Path, keep: int) -> list[int]:
    """Remove all but the newest `keep` versions and those served or loading; returns the numbers that went."""
    old = [r.number for r in releases(repository)[keep:] if r.state not in (SERVING, LOADING)]
    for number in old:
        remove(repository, number)
    return old


def _release(repository: Path, number: int, said: Sequence[Status]) -> Release:
    bundle = bundle_of(repository, number)
    try:
        digest = Bundle.open(bundle, verify=False).version
    except BundleError:
        digest = DAMAGED
    changed = bundle.stat().st_mtime if bundle.exists() else bundle.parent.stat().st_mtime
    size = sum(path.stat().st_size for path in bundle.parent.rglob("*") if path.is_file())
    state, why = _state(str(number), said)
    return Release(number, digest, datetime.fromtimestamp(changed, UTC), size, state, why)


def _state(number: str, said: Sequence[Status]) -> tuple[str, str]:
    """By what the servers say: one that serves it weighs most, then one that loads it."""
    if any(status.serving == number for status in said):
        return SERVING, ""
    if any(status.loading == number for status in said):
        return LOADING, ""
    reasons = [status.refused[number].why for status in said if number in status.refused]
    return (REFUSED, reasons[0]) if reasons else (STANDBY, "")


def _copy(source: Path, target: Path) -> None:
    """What lies in the version folder itself is copied: the supervisor touches it. What lies deeper is linked."""
    target.mkdir()
    for path in source.rglob("*"):
        here = target / path.relative_to(source)
        if path.is_dir():
            here.mkdir(exist_ok=True)
        elif path.parent == source:
            shutil.copyfile(path, here)
        else:
            link_or_copy(path, here)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows, a copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
