"""Slates made beforehand, as they lie in the store: one blob a person, one a segment; and when a person's may answer.

A person's slate answers while it is what the cascade would answer: the same bundle, the same version of the live
profile, a request with default options. Who makes slates is `shortlist.serving.precompute`; how long they last, the
store's TTL. docs/precompute.md has the table of the blobs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from shortlist.profiles import ABSENT, BUNDLE, GONE, HIT, OPTIONS, PRECOMPUTED_OUTCOMES, PROFILE
from shortlist.types import FULL, Float32, Live, Request, Slate

SLATE, SEGMENT = b"sl:slate:", b"sl:segment:"  # + user id; + number of the segment, from 0
FORMAT = 1


class Made(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT):
    """One person's slate."""

    bundle: str  # version
    version: int  # of the live profile; 0: the store knew nobody of that id
    updated_ms: int  # of the live profile, which together with its version tells a lost one that grew again
    made_ms: int
    items: list[bytes]
    scores: bytes  # float32


class Segment(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT + 100):
    """The list of one segment."""

    bundle: str
    of: int  # segments there are
    made_ms: int
    centroid: bytes  # float32, in the space of user vectors
    items: list[bytes]  # best first


_PERSON, _SEGMENT = msgspec.msgpack.Decoder(Made), msgspec.msgpack.Decoder(Segment)


def pack(made: Made | Segment) -> bytes:
    """The blob of a slate or a segment."""
    return msgspec.msgpack.encode(made)


def read_made(blob: bytes | None) -> Made | None:
    """The slate of a blob; None where there is none, or one of another format."""
    try:
        made = None if blob is None else _PERSON.decode(blob)
    except msgspec.MsgspecError:
        return None
    return made if made and len(made.scores) == 4 * len(made.items) else None


def read_segment(blob: bytes | None) -> Segment | None:
    """The segment of a blob, likewise."""
    try:
        return None if blob is None else _SEGMENT.decode(blob)
    except msgspec.MsgspecError:
        return None


def floats(column: bytes) -> Float32:
    """The numbers of a column."""
    return np.frombuffer(column, np.float32)


def is_default(request: Request, length: int) -> bool:
    """Whether a request asks for what anybody gets who names a person and nothing else: a slate of `length` items."""
    asked = request.history or request.exclude or request.context or request.eligible or request.trace
    return bool(request.user_id) and not asked and request.diversity is None and request.k in (None, length)


def precomputed(made: Made | None, bundle: str, live: Live, request: Request) -> str:
    """HIT where `made` is what the cascade of `bundle` would answer now; else why it is not.

    `live` is the person's profile as it was read with the blob.
    """
    if made is None:
        return ABSENT
    if not is_default(request, len(made.items)):
        return OPTIONS
    if made.bundle != bundle:
        return BUNDLE
    return HIT if (made.version, made.updated_ms) == (live.version, live.updated_ms) else PROFILE


class Precomputed:
    """Answers from the slates of the store, for one cascade. `outcomes` counts requests, `age_seconds` that of hits."""

    def __init__(self, bundle: str, on_offer: Callable[[Sequence[bytes]], bool]) -> None:
        """`bundle` is the version that is served; `on_offer` says whether all of some items still are."""
        self.outcomes = Counter(dict.fromkeys(PRECOMPUTED_OUTCOMES, 0))
        self.age_seconds = 0.0
        self._bundle, self._on_offer = bundle, on_offer

    def answer(self, blob: bytes | None, live: Live, request: Request) -> Slate | None:
        """The slate of `blob`, where it may answer `request`; one whose deadline has passed is left to the cascade."""
        if request.trace:  # wants the cascade itself, as `shortlist precompute` does: that is no slate missed
            return None
        made = read_made(blob)
        now_us = time.time_ns() // 1000
        if request.deadline_unix_us is not None and request.deadline_unix_us <= now_us:
            return None
        outcome = precomputed(made, self._bundle, live, request)
        if outcome == HIT and made and not self._on_offer(made.items):
            outcome = GONE
        self.outcomes[outcome] += 1
        if outcome != HIT or made is None:
            return None
        self.age_seconds += max(0.0, now_us / 1e6 - made.made_ms / 1e3)
        return Slate(tuple(made.items), floats(made.scores), np.ones(len(made.items), np.float32), FULL)
