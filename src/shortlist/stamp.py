"""A note beside a folder's files that their checksums were compared, so that the next process need not read them all.

The note holds each file's size, inode, and times of last modification and last change. Any write through the file
system moves the last of these, and no program can set it back; copies and replaced files have others. So the note
never outlives a write: who opens a changed file compares its checksum, and refuses it. What it does not see is a disk
that alters bytes by itself, or a writer below the file system; deleting the note has everything read again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

NOTE = ".verified.json"
SETTLED = 0.1  # seconds: a file system's clock ticks at least so often


def verify_once(folder: Path, digest: str, files: Sequence[str], verify: Callable[[], None]) -> None:
    """Call `verify`, which raises where a file is wrong, unless that was done for these very `files` of `folder`.

    `digest` says what they were compared with. Of several processes one verifies and the others wait for its note;
    where the folder cannot be written to, each verifies for itself.
    """
    with _alone(folder):
        if _read(folder) == _note(folder, digest, files):
            return
        before, settled = _note(folder, digest, files), _settled(folder, files)
        verify()
        if settled and _note(folder, digest, files) == before:
            _write(folder, before)


def settle(folder: Path, files: Sequence[str]) -> None:
    """Wait until a write to any of `files` would show: a moment after the last one."""
    while not _settled(folder, files):
        time.sleep(SETTLED / 4)


def _settled(folder: Path, files: Sequence[str]) -> bool:
    """Whether a write from now on gets another time than the files have: clocks of file systems tick coarsely."""
    newest = max((_changed(folder / name) for name in files), default=0.0)
    return not 0 <= time.time() - newest < SETTLED


def _changed(path: Path) -> float:
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns) / 1e9


def _note(folder: Path, digest: str, files: Sequence[str]) -> str:
    status = {name: (folder / name).stat() for name in files}
    seen = {name: [s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for name, s in status.items()}
    return json.dumps({"digest": digest, "files": seen})


def _read(folder: Path) -> str | None:
    try:
        return (folder / NOTE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _write(folder: Path, note: str) -> None:
    """Put the note there in one step; a folder that refuses goes without."""
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix=NOTE, dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(note)
        os.chmod(name, 0o644)
        os.replace(name, folder / NOTE)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that verify the folder; where no note can be left, there is nothing to wait for."""
    if not os.access(folder, os.W_OK):
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
