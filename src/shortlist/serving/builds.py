"""Builds the plans of versions that come to a running GPU server without them, as `shortlist export --engines later`
makes them: in a process of its own and of low priority, so that the supervisor goes on watching.

Which version is loaded, and what is done about one that does not load, is the business of `supervisor`. The GPU is
shared with the server meanwhile: answers take longer, and what TensorRT needs to build must be free.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shortlist.errors import ShortlistError
from shortlist.serving.tensors import CASCADE
from shortlist.serving.versions import version_folders

NICENESS = 10
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class PlanBuilds:
    """Tells of a version whether its plans are as complete as they will get, and starts what builds them. Use as a
    context manager: what is still being built ends with it.
    """

    def __init__(self, repository: Path, tell: Callable[[str], None]) -> None:
        """Versions that are there already are taken to be complete: `where.settle` has seen to that."""
        self._repository, self._tell = repository, tell
        self._done = {self._key(number) for number in version_folders(repository / CASCADE.name)}
        self._child: subprocess.Popen[bytes] | None = None
        self._building = ("", 0)
        self._log: IO[bytes]

    def __enter__(self) -> PlanBuilds:
        self._log = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()
        self._log.close()

    def ready(self, number: str) -> bool:
        """Whether version `number` may be loaded; its plans are built one version at a time until then.

        Where building fails that is told, and the version counts as ready: loading it will say what it lacks.
        """
        if self._child and self._child.poll() is not None:
            self._finish(self._child.returncode)
        key = self._key(number)
        if key not in self._done and not self._child:
            self._start(number)
        return key in self._done

    def _key(self, number: str) -> tuple[str, int]:
        """Tells a version from another that takes its number later."""
        try:
            return number, (self._repository / CASCADE.name / number).stat().st_ino
        except OSError:
            return number, 0

    def _start(self, number: str) -> None:
        self._tell(f"version {number}: building its plans beside the server, which goes on")
        self._building = self._key(number)
        self._log.seek(0)
        self._log.truncate()
        self._child = _start_child(self._repository, number, self._log)

    def _finish(self, code: int) -> None:
        self._child = None
        self._done.add(self._building)
        if code:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
            self._tell(f"version {self._building[0]}: its plans are not built: {words[-1]}")


def _start_child(repository: Path, number: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(repository), number]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _step_back() -> None:
    """Leave the CPU to the server, and end with it, even where it is killed."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    os.nice(NICENESS)


def main(repository: str, number: str) -> int:
    """Build in this process, which is the child: its exit code, after a last line that says why it failed."""
    _step_back()
    from shortlist.serving.plans import complete, find_builder

    try:
        complete(Path(repository), number, find_builder(), print)
    except ShortlistError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
