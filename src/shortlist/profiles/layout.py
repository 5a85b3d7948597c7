"""A profile as one blob: a header of fixed size, then its columns one after the other. docs/profiles.md has the table.

`recent` reads what a request needs straight from the blob. A blob of another format is refused: profiles are derived
from the log, so `shortlist events replay` writes them anew.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from shortlist.errors import DataError
from shortlist.profiles.affinity import Affinities
from shortlist.profiles.state import END, MARK, Profile, Session, positives

FORMAT = 1
# format, N, M, C, session's C; version, updated_ms; counters[8]; session: started_ms, events;
# then lengths in bytes: items, disliked, names, session id, session names, context, vector's bundle, vector
_HEADER = struct.Struct("<5B3x2Q8IQI8H")
_STATE = 8  # bytes of a category's weight and moment
_HEAD = struct.Struct("<8x2Q")
HEAD = _HEAD.size  # bytes that `head` reads


class Recent(NamedTuple):
    """What a request reads of a profile."""

    version: int
    updated_ms: int
    positives: list[bytes]  # items, oldest first
    disliked: list[bytes]
    vector: bytes
    vector_bundle: bytes


def pack(profile: Profile) -> bytes:
    """The profile's blob."""
    session = profile.session
    columns = (
        profile.items,
        profile.disliked_items,
        profile.affinities.names,
        session.id,
        session.affinities.names,
        profile.context,
        profile.vector_bundle,
        profile.vector,
    )
    header = _HEADER.pack(
        FORMAT,
        len(profile.kinds),
        len(profile.seen) // MARK,
        len(profile.affinities),
        len(session.affinities),
        profile.version,
        profile.updated_ms,
        *profile.counters,
        session.started_ms,
        session.events,
        *map(len, columns),
    )
    fixed = (profile.seconds, profile.millis, profile.values, profile.kinds, profile.seen)
    return b"".join((header, *fixed, profile.affinities.states, session.affinities.states, *columns))


def unpack(blob: bytes) -> Profile:
    """The profile of a blob. Raises DataError when it is of another format or cut short."""
    _check(blob)
    _, n, m, c, session_c, version, updated_ms, *rest = _HEADER.unpack_from(blob)
    counters, (started_ms, events, *lengths) = tuple(rest[:8]), rest[8:]
    at, parts = _HEADER.size, []
    for length in (4 * n, 2 * n, 2 * n, n, MARK * m, _STATE * c, _STATE * session_c, *lengths):
        parts.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise _damaged(blob, at)
    seconds, millis, values, kinds, seen, states, session_states = parts[:7]
    items, disliked, names, session_id, session_names, context, vector_bundle, vector = parts[7:]
    session = Session(session_id, started_ms, events, Affinities(session_names, session_states))
    affinities = Affinities(names, states)
    return Profile(
        version,
        updated_ms,
        counters,
        kinds,
        seconds,
        millis,
        values,
        items,
        seen,
        disliked,
        affinities,
        session,
        context,
        vector,
        vector_bundle,
    )


def head(start: bytes) -> tuple[int, int]:
    """Version and updated_ms, from the first HEAD bytes of a blob alone; (0, 0) of another format."""
    if len(start) < HEAD or start[0] != FORMAT:
        return 0, 0
    version, updated_ms = _HEAD.unpack_from(start)
    return version, updated_ms


def recent(blob: bytes, until_ms: int = 0) -> Recent:
    """Version, positives newer than `until_ms` and dislikes of a blob, in a few µs. Raises DataError as `unpack`."""
    _check(blob)
    fields = _HEADER.unpack_from(blob)
    n, m, c, session_c, version, updated_ms = fields[1:7]
    items_length, disliked_length = fields[17:19]
    view, at = memoryview(blob), _HEADER.size
    ids = at + 9 * n + MARK * m + _STATE * (c + session_c)
    disliked = ids + items_length
    if (end := disliked + sum(fields[18:])) != len(blob):
        raise _damaged(blob, end)
    liked = []
    if until_ms < updated_ms:
        seconds, millis = view[at : at + 4 * n], view[at + 4 * n : at + 6 * n]
        liked = positives(blob[at + 8 * n : at + 9 * n], seconds, millis, blob[ids:disliked], until_ms)
    disliked_ids = blob[disliked : disliked + disliked_length].split(END)[:-1]
    *_, bundle_length, vector_length = fields
    vector = len(blob) - vector_length  # the last column, its bundle's version before it
    return Recent(version, updated_ms, liked, disliked_ids, blob[vector:], blob[vector - bundle_length : vector])


def _check(blob: bytes) -> None:
    if len(blob) < _HEADER.size or blob[0] != FORMAT:
        found = f"format {blob[0]}" if len(blob) >= _HEADER.size else f"{len(blob)} bytes"
        raise DataError(f"profile: {found}, this version reads format {FORMAT}; replay the log to write it anew")


def _damaged(blob: bytes, length: int) -> DataError:
    return DataError(f"profile of {len(blob)} bytes: its header says {length}; replay the log to write it anew")
