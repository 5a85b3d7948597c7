"""What the supervisors of a repository say of themselves, in files of its folder `.serving`: one for each.

They are how `shortlist deploy` and `shortlist versions` learn which version is served, and why one was refused. A
repository that cannot be written to is served without.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shortlist.serving.tensors import CASCADE
from shortlist.serving.versions import Refusal, identity, loadable

FOLDER = ".serving"


@dataclass(frozen=True)
class Status:
    """One supervisor's words, of the model `cascade`."""

    address: str  # host:port of gRPC
    pid: int = field(default_factory=os.getpid)
    started: int = field(default_factory=lambda: _start_of(os.getpid()))  # tells a process from one that got its number
    host: str = field(default_factory=socket.gethostname)
    serving: str | None = None  # the version that answers
    loading: str | None = None  # the version that is being loaded
    refused: Mapping[str, Refusal] = field(default_factory=dict)  # by version

    @property
    def alive(self) -> bool:
        """Whether the supervisor still runs, on this machine."""
        return self.host == socket.gethostname() and self.started == _start_of(self.pid) != 0


class StatusFile:
    """The file of one supervisor. It appears whole at each change, and goes with `remove`."""

    def __init__(self, repository: Path, address: str) -> None:
        self._path = repository / FOLDER / f"{socket.gethostname()}-{address.replace(':', '-')}.json"

    def write(self, status: Status) -> None:
        """Say `status`; without a word where the disk refuses."""
        staged = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            staged.write_text(json.dumps(asdict(status)), encoding="utf-8")
            staged.replace(self._path)

    def remove(self) -> None:
        """The supervisor ends."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._path.parent.rmdir()


def statuses(repository: Path) -> list[Status]:
    """What the supervisors say that serve `repository` from this machine now."""
    found = []
    for path in sorted((repository / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            status = Status(**json.loads(path.read_text(encoding="utf-8")))
            if status.alive:
                found.append(replace(status, refused=_present(repository / CASCADE.name, status.refused)))
    return found


def bundle_now(repository: Path) -> Path:
    """The bundle that this process' supervisor serves; where it serves none yet, the newest that may be loaded."""
    own = next((status for status in statuses(repository) if status.pid == os.getpid()), None)
    cascade = repository / CASCADE.name
    numbers = loadable(cascade) - (own.refused.keys() if own else set())
    return cascade / ((own and own.serving) or max(numbers, key=int, default="1")) / "bundle"


def _present(model_folder: Path, refused: Mapping[str, Sequence[Any]]) -> dict[str, Refusal]:
    """As read from JSON, without those whose folder was replaced since."""
    read = {number: Refusal(why, (inode, changed)) for number, (why, (inode, changed)) in refused.items()}
    return {number: refusal for number, refusal in read.items() if identity(model_folder / number) == refusal.identity}


def _start_of(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 where it does not run."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *numbers = line.rpartition(")")[2].split()
    return 0 if state == "Z" else int(numbers[18])
