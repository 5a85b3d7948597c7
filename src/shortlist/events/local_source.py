"""A reader of the durable log in a folder, in the writer's process or in any other, also while the log grows.

It shows what the writer (`local_log`) has declared durable and nothing else. Where to go on from is told by who reads.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Collection
from pathlib import Path

from shortlist.errors import ConfigError
from shortlist.events.segments import (
    HEADER_BYTES,
    MAX_VALUE,
    count_frames,
    describe,
    frames,
    log_name,
    map_durable,
    segment_bases,
    segment_path,
)
from shortlist.events.transport import OffsetError, Record, TransportError

_CHUNK = 256 << 10
_PAUSE_S = 0.002  # between two looks at whether the log has grown


class LocalSource:
    """A reader of the log in a folder (a Source), in this process or another than the writer's."""

    def __init__(self, folder: Path, partitions: Collection[int] | None = None) -> None:
        """Read `partitions`, all when not given. Raises TransportError where there is no log."""
        _, self._count = describe(folder)
        self._name = log_name(folder)
        self._folder = folder
        self._durable = map_durable(folder, writable=False)
        self._cursors = {n: _Cursor(folder / str(n), self._name, n) for n in _chosen(partitions, self._count)}
        self._order = sorted(self._cursors)
        self._callback: Callable[[frozenset[int]], None] | None = None

    @property
    def name(self) -> str:
        """The log's name, under which offsets are kept."""
        return self._name

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to `max_records` durable records, in turn from each partition; none after `timeout_s` seconds."""
        if self._callback is not None:
            callback, self._callback = self._callback, None
            callback(self.assigned())
        until = time.monotonic() + timeout_s
        while True:
            found: list[Record] = []
            for number in self._order:
                if len(found) < max_records:
                    found += self._cursors[number].read(self._durable[number], max_records - len(found))
            self._order = self._order[1:] + self._order[:1]
            if found or time.monotonic() >= until:
                return found
            time.sleep(_PAUSE_S)

    def seek(self, partition: int, offset: int) -> None:
        """Go on from `offset`. Raises OffsetError where the log does not hold it."""
        if partition not in self._cursors:
            raise ConfigError(f"partition = {partition}: this source reads {sorted(self._cursors)}")
        begin, end = self.begin()[partition], self.ends()[partition]
        if not begin <= offset <= end:
            raise OffsetError(self._name, partition, offset, begin, end)
        self._cursors[partition].move(offset)

    def assigned(self) -> frozenset[int]:
        """The partitions that this source reads."""
        return frozenset(self._cursors)

    def on_assigned(self, callback: Callable[[frozenset[int]], None]) -> None:
        """Have `callback` told of the partitions at the next `poll`; there are no others to share them with."""
        self._callback = callback

    def begin(self) -> dict[int, int]:
        """First offset held, by partition."""
        return {n: next(iter(segment_bases(self._folder / str(n))), 0) for n in range(self._count)}

    def ends(self) -> dict[int, int]:
        """Offset after the last durable record, by partition."""
        return dict(enumerate(self._durable))

    def close(self) -> None:
        """Let go of the files."""
        for cursor in self._cursors.values():
            cursor.close()


class _Cursor:
    """A place in a partition, from which to read on."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self._folder, self._name, self._number = folder, name, number
        self._offset: int | None = None  # None: the beginning, wherever it is by then
        self._path = folder  # of the open segment
        self._descriptor: int | None = None
        self._at = 0  # where the buffer begins in the segment
        self._buffer = b""
        self._used = 0  # bytes of the buffer
        self._known = 0  # the buffer is good up to this offset: what follows was not durable yet when it was read

    def read(self, durable: int, most: int) -> list[Record]:
        """At most `most` records before the offset `durable`."""
        found: list[Record] = []
        while len(found) < most and (self._offset is None or self._offset < durable):
            if self._descriptor is None:
                if not durable:
                    break
                self._open(durable)
                continue
            taken = self._take(most - len(found))
            if not taken:
                self._fill(durable)
            found += taken
        return found

    def move(self, offset: int | None) -> None:
        """Go on from `offset`."""
        self.close()
        self._offset = offset

    def close(self) -> None:
        """Let go of the segment."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._buffer, self._used, self._known = None, b"", 0, 0

    def _open(self, durable: int) -> None:
        """Open the segment that holds the offset, at its record."""
        bases = segment_bases(self._folder)
        offset = bases[0] if self._offset is None else self._offset
        place = bisect_right(bases, offset) - 1
        if place < 0:
            raise OffsetError(self._name, self._number, offset, bases[0] if bases else durable, durable)
        self._path = segment_path(self._folder, bases[place])
        try:
            skipped, at = count_frames(self._path, most=offset - bases[place])
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return  # deleted by retention just now: look again
        if skipped < offset - bases[place]:
            raise self._damage(at)
        self._offset, self._at = offset, at

    def _take(self, most: int) -> list[Record]:
        """Records of the buffer; none when it is used up."""
        assert self._offset is not None
        found: list[Record] = []
        most = min(most, self._known - self._offset)
        if most <= 0:
            return found
        for start, end, appended_ms in frames(self._buffer, self._used):
            found.append(Record(self._number, self._offset + len(found), self._buffer[start:end], appended_ms))
            self._used = end
            if len(found) == most:
                break
        self._offset += len(found)
        return found

    def _fill(self, durable: int) -> None:
        """Read more of the segment, or go to the next one at its end."""
        assert self._descriptor is not None
        assert self._offset is not None
        self._at += self._used
        self._used, self._known = 0, durable
        for size in (_CHUNK, HEADER_BYTES + MAX_VALUE):
            self._buffer = os.pread(self._descriptor, size, self._at)
            if next(frames(self._buffer), None) is not None:
                return
        following = segment_path(self._folder, self._offset)
        if self._buffer or following == self._path or not following.exists():
            raise self._damage(self._at)
        self.move(self._offset)

    def _damage(self, at: int) -> TransportError:
        return TransportError(
            f"{self._path}: damaged at byte {at}; restore it from a backup, or seek to a later offset and lose some"
        )


def _chosen(partitions: Collection[int] | None, count: int) -> frozenset[int]:
    """`partitions` of a log that has `count` of them; all by default. Raises ConfigError for one it has not."""
    chosen = frozenset(range(count) if partitions is None else partitions)
    if unknown := sorted(p for p in chosen if not 0 <= p < count):
        raise ConfigError(f"partitions = {unknown}: this log has 0 to {count - 1}")
    return chosen
