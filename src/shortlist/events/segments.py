"""The files of a local log: how records lie in segments, which of them are durable, and what may be cut off.

    log.json              format, identity, number of partitions
    lock                  held by the one writer
    durable               for each partition, the offset after its last durable record: unsigned 64 bits, native order
    <partition>/<offset of its first record>.segment

`local_log` writes and reads them. A record is CRC-32 of the rest, length of the value, when it was appended, the value.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4
from zlib import crc32

from shortlist.events.transport import TransportError

FORMAT = 1
MAX_VALUE = 1 << 20  # bytes
_HEADER = struct.Struct("<IIq")
_COVERED = struct.Struct("<Iq")  # by the CRC, and the value
HEADER_BYTES = _HEADER.size
_SUFFIX = ".segment"
_DIGITS = 20  # of an offset in a name
_NAME = re.compile(f"[0-9]{{{_DIGITS}}}{re.escape(_SUFFIX)}")
_WORD = struct.calcsize("Q")


def frame(value: bytes, appended_ms: int) -> bytes:
    """A record as it lies in a segment."""
    body = _COVERED.pack(len(value), appended_ms) + value
    return crc32(body).to_bytes(4, "little") + body


def frames(buffer: bytes | mmap.mmap, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """(first byte of the value, byte after it, appended_ms) of each whole record, up to the first that is not whole."""
    at, size = start, len(buffer)
    while at + HEADER_BYTES <= size:
        checksum, length, appended_ms = _HEADER.unpack_from(buffer, at)
        end = at + HEADER_BYTES + length
        if end > size or length > MAX_VALUE or crc32(buffer[at + 4 : end]) != checksum:
            return
        yield at + HEADER_BYTES, end, appended_ms
        at = end


def count_frames(path: Path, most: int | None = None) -> tuple[int, int]:
    """How many whole records a segment begins with (at most `most` are looked at), and the bytes they take."""
    count = end = 0
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size or most == 0:
            return 0, 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            for count, (_, end, _) in enumerate(frames(buffer), start=1):  # noqa: B007 the last ones are the answer
                if count == most:
                    break
    return count, end


def segment_path(folder: Path, base: int) -> Path:
    """The segment whose first record has the offset `base`."""
    return folder / f"{base:0{_DIGITS}d}{_SUFFIX}"


def segment_bases(folder: Path) -> list[int]:
    """Offsets of the first records of a partition's segments, ascending. Files of other names are not ours."""
    return sorted(int(name[:_DIGITS]) for name in os.listdir(folder) if _NAME.fullmatch(name))


def create(folder: Path, partitions: int) -> None:
    """Make the files of an empty log; `log.json` comes last, so that what has it is whole."""
    for number in range(partitions):
        (folder / str(number)).mkdir(exist_ok=True)
    with (folder / "durable").open("wb") as offsets:
        offsets.write(bytes(_WORD * partitions))
        offsets.flush()
        os.fsync(offsets.fileno())
    document = {"format": FORMAT, "id": uuid4().hex, "partitions": partitions}
    draft = folder / "log.json.draft"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / "log.json")
    sync_folder(folder)
    sync_folder(folder.parent)


def describe(folder: Path) -> tuple[str, int]:
    """Identity and number of partitions of the log in `folder`. Raises TransportError where there is none."""
    try:
        document = json.loads((folder / "log.json").read_text(encoding="utf-8"))
        found, identity, partitions = document["format"], str(document["id"]), int(document["partitions"])
    except FileNotFoundError:
        raise TransportError(
            f"{folder} holds no event log; `shortlist events import` or `shortlist gateway --events {folder}` makes "
            "one, and `shortlist serve --realtime FOLDER` keeps one in FOLDER/events"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError(f"{folder / 'log.json'} is damaged ({error!r}); restore it from a backup") from None
    if found != FORMAT:
        raise TransportError(f"{folder} is a log of format {found}; this version reads format {FORMAT}")
    return identity, partitions


def map_durable(folder: Path, writable: bool) -> memoryview:
    """The durable offsets [partitions], shared with every process that maps them; a word is read and written whole.

    Raises TransportError where the file does not hold as many.
    """
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    path, (_, partitions) = folder / "durable", describe(folder)
    with path.open("r+b" if writable else "rb") as file:
        if os.fstat(file.fileno()).st_size != _WORD * partitions:
            raise TransportError(f"{path} is damaged; restore the log from a backup")
        return memoryview(mmap.mmap(file.fileno(), 0, access=access)).cast("Q")


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_name(folder: Path) -> str:
    """The name of the log in `folder`: a log made anew in the same place has another, and offsets of its own."""
    return f"{folder.resolve().name}-{describe(folder)[0][:8]}"
