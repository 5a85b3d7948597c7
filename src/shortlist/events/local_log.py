"""The writer of a durable log in a folder, for machines without a broker: one process writes, any number read.

`append` returns when the records are on the disk; calls that arrive together share one fsync. Readers (`local_source`)
are shown durable records only, so nothing that one acted on can be gone after a power failure.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from shortlist.errors import ConfigError
from shortlist.events.segments import (
    MAX_VALUE,
    count_frames,
    create,
    describe,
    frame,
    map_durable,
    segment_bases,
    segment_path,
    sync_folder,
)
from shortlist.events.transport import TransportError

SEGMENT_BYTES = 16 << 20
RETENTION_BYTES = 4 << 30
MAX_PARTITIONS = 256


class LocalLog:
    """The one writer of the log in a folder (a Sink)."""

    def __init__(
        self,
        folder: Path,
        partitions: int | None = None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        retention_bytes: int = RETENTION_BYTES,
    ) -> None:
        """Open the log, or make one of `partitions` (by default 1), and cut off what a killed writer left half done.

        Whole segments are deleted, the oldest first, while a partition exceeds its share of `retention_bytes`.
        Raises TransportError when another process writes to it or acknowledged records are damaged.
        """
        if folder.is_file():
            raise TransportError(f"{folder}: is a file; a log is a folder, or kafka://host:port/topic")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            count = _create_or_check(folder, partitions)
            self._durable = map_durable(folder, writable=True)
            keep = retention_bytes // count
            self._partitions = []
            for number in range(count):
                partition = _Partition(folder / str(number), self._durable[number], segment_bytes, keep)
                self._partitions.append(partition)
                self._durable[number] = partition.next
        except BaseException:
            os.close(self._lock)
            raise
        self._folder = folder
        self._turn = threading.Condition()
        self._waiting = _Group(count)
        self._busy = False
        self._unclean = False
        self._closed = False

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (key, value) pairs of at most 1 MiB each; durable on return. Raises TransportError."""
        now = time.time_ns() // 1_000_000
        count = len(self._partitions)
        framed = [(crc32(key) % count, frame(_bounded(value), now)) for key, value in records]
        if not framed:
            return
        with self._turn:
            if self._closed:
                raise TransportError(f"{self._folder}: the log is closed")
            group = self._waiting
            group.add(framed)
            while self._busy and not group.done:
                self._turn.wait()
            leads = not group.done
            if leads:
                self._busy = True
                self._waiting = _Group(count)
        if leads:
            self._lead(group)
        if group.failure is not None:
            raise TransportError(group.failure)

    def close(self) -> None:
        """Wait for the calls in progress, then let the next writer in."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._turn.wait_for(lambda: not self._busy and self._waiting.empty)
        for partition in self._partitions:
            os.close(partition.descriptor)
        os.close(self._lock)

    def _lead(self, group: _Group) -> None:
        """Write the group on behalf of all that wait for it."""
        try:
            self._commit(group)
            group.failure = None
        except OSError as error:
            group.failure = f"{self._folder}: the events were not written ({error}); send them again"
        finally:
            with self._turn:
                group.done = True
                self._busy = False
                self._turn.notify_all()

    def _commit(self, group: _Group) -> None:
        """Write, sync, then tell readers.

        After a failure the next call cuts off what this one left: a page that did not reach the disk may look clean.
        """
        if self._unclean:
            for partition in self._partitions:
                partition.cut()
        self._unclean = True
        touched = [(n, part) for n, part in enumerate(group.parts) if part]
        for number, part in touched:
            self._partitions[number].write(part)
        for number, _ in touched:
            os.fdatasync(self._partitions[number].descriptor)
        for number, part in touched:
            self._durable[number] = self._partitions[number].advance(part)
        self._unclean = False


class _Group:
    """Records of several callers that are written together."""

    def __init__(self, partitions: int) -> None:
        self.parts: list[list[bytes]] = [[] for _ in range(partitions)]
        self.done = False
        self.failure: str | None = "the writer was interrupted; send the events again"

    @property
    def empty(self) -> bool:
        return not any(self.parts)

    def add(self, framed: list[tuple[int, bytes]]) -> None:
        for number, record in framed:
            self.parts[number].append(record)


class _Partition:
    """The newest segment of a partition: what is durable in it, and where the next record goes."""

    def __init__(self, folder: Path, durable: int, segment_bytes: int, keep_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._keep_bytes = keep_bytes
        bases = segment_bases(folder)
        base = bases[-1] if bases else durable
        path = segment_path(folder, base)
        count, self._size = count_frames(path) if bases else (0, 0)
        self.next = base + count
        if self.next < durable:
            raise TransportError(
                f"{path}: damaged at byte {self._size}: record {self.next} cannot be read, and up to {durable} were "
                "acknowledged; restore the log from a backup"
            )
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self.cut()
        sync_folder(folder)

    def write(self, records: list[bytes]) -> None:
        """Write behind what is durable, in a new segment when this one is full."""
        if self._size >= self._segment_bytes:
            self._roll()
        data = memoryview(b"".join(records))
        at = self._size
        while data:
            written = os.pwrite(self.descriptor, data, at)
            data, at = data[written:], at + written

    def advance(self, records: list[bytes]) -> int:
        """Count `records` as durable; the offset after them."""
        self._size += sum(map(len, records))
        self.next += len(records)
        return self.next

    def cut(self) -> None:
        """Take off what lies behind the durable records."""
        os.ftruncate(self.descriptor, self._size)
        os.fsync(self.descriptor)

    def _roll(self) -> None:
        fresh = os.open(segment_path(self._folder, self.next), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.close(self.descriptor)
        self.descriptor, self._size = fresh, 0
        sync_folder(self._folder)
        self._expire()

    def _expire(self) -> None:
        """Delete the oldest segments while the closed ones are too many. A reader that has one open finishes it."""
        paths = [segment_path(self._folder, base) for base in segment_bases(self._folder)[:-1]]
        excess = sum(path.stat().st_size for path in paths) - self._keep_bytes
        for path in paths:
            if excess <= 0:
                return
            excess -= path.stat().st_size
            path.unlink()


def _lock(folder: Path) -> int:
    """Become the log's one writer, until the descriptor is closed or this process ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TransportError(f"{folder}: another process writes to this log; stop it, or send events to it") from None
    return descriptor


def _create_or_check(folder: Path, partitions: int | None) -> int:
    """Number of partitions of the log in `folder`, which is made where there is none."""
    wanted = 1 if partitions is None else partitions
    if not 1 <= wanted <= MAX_PARTITIONS:
        raise ConfigError(f"partitions = {wanted}: 1 to {MAX_PARTITIONS} are allowed")
    if not (folder / "log.json").exists():
        create(folder, wanted)
    _, found = describe(folder)
    if partitions not in (None, found):
        raise ConfigError(
            f"partitions = {partitions}: the log in {folder} has {found}; leave it out, or make another log"
        )
    return found


def _bounded(value: bytes) -> bytes:
    if len(value) > MAX_VALUE:
        raise TransportError(f"a record of {len(value)} bytes: at most {MAX_VALUE} are allowed")
    return value
