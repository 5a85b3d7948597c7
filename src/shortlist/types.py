"""The values that travel through the cascade: Request, UserBatch, Candidates, Slate.

They know nothing of Triton, of torch or of where their arrays came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Bitmap = NDArray[np.uint8]  # one bit a row, lowest bit first, in whole words of 64

FULL, NO_RANK, NO_FILTER, FALLBACK, STALE_PROFILE = "full", "no_rank", "no_filter", "fallback", "stale_profile"
MAX_K = 50


class Live(NamedTuple):
    """What a person did since the bundle was made, as the profile store tells it at the time of a request."""

    version: int  # events in the profile; 0: the store knows nobody of that id
    updated_ms: int  # when the newest of them happened, ms since 1970 UTC
    history: tuple[bytes, ...] = ()  # items they took to, newer than the bundle, oldest first
    disliked: tuple[bytes, ...] = ()  # items never to return
    drift: bytes = b""  # float32[D] to add to the tower's vector, where something computes it
    drift_bundle: bytes = b""  # version of the bundle whose vectors it moves


UNREAD = Live(-1, 0)
"""Stands for a live profile that could not be read: the bundle's stored history must do."""


@dataclass(frozen=True, slots=True)
class Request:
    """One person's request. Ids are the caller's own, as bytes; `None` options take the configured default."""

    user_id: bytes = b""  # empty: anonymous
    history: tuple[bytes, ...] = ()  # item ids, oldest first; not empty: replaces the stored history
    exclude: tuple[bytes, ...] = ()  # item ids never to return
    k: int | None = None  # 1..50
    diversity: float | None = None  # 0..1
    context: Mapping[str, Any] = field(default_factory=dict)
    deadline_unix_us: int | None = None
    trace: bool = False
    eligible: Mapping[str, Any] = field(default_factory=dict)  # what item attributes must be; empty: anything
    traceparent: str | None = None  # the caller's span, in the notation of W3C; changes nothing of the answer
    live: Live | None = None  # None: nobody asked for it, or `history` stands in for it


@dataclass(slots=True)
class Eligible:
    """The catalogue rows that may be shown; what a stage finds out about them stays with them.

    `added` are allowed rows beyond those of the bundle, which no index knows; `count` and `rows` leave them out.
    """

    bits: Bitmap
    count: int
    rows: Int64 | None = None  # [count] ascending, where each of them is scored
    cells: tuple[Int64, float] | None = None  # where they are searched for: how many are in each, how thoroughly
    popular: Int32 | None = None  # the most popular of them
    added: Int32 | None = None  # [A] ascending; None where there are none
    resident: Any = None  # the bits on the device, where that is not the CPU

    @property
    def nbytes(self) -> int:
        """Bytes of what retrieval needs of it."""
        arrays = (self.bits, self.rows, self.cells[0] if self.cells else None)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, slots=True)
class UserBatch:
    """The user side of B requests, computed once: what every later stage reads of the person."""

    history: Int32  # [B, L] catalogue rows, oldest first, right-padded with -1
    lengths: Int64  # [B] valid entries of history; 0 is a cold start
    side: Float32  # [B, S] user features, then context features
    vectors: Float32  # [B, D] retrieval vectors; D is 0 until the tower has run
    masked: tuple[Int32, ...]  # B arrays of rows never to return
    segments: Int32  # [B] popularity segment of the context; 0 is everyone
    eligible: tuple[Eligible | None, ...] = field(default=(), kw_only=True)  # B of them; (): everything, for all
    drift: Float32 | None = field(default=None, kw_only=True)  # [B, D] to add to what the tower says; None: nothing

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, index: Int64) -> UserBatch:
        """The requests at `index` [B']."""
        return UserBatch(
            self.history[index],
            self.lengths[index],
            self.side[index],
            self.vectors[index],
            tuple(self.masked[i] for i in index),
            self.segments[index],
            eligible=tuple(self.eligible[i] for i in index) if self.eligible else (),
            drift=None if self.drift is None else self.drift[index],
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Catalogue rows under consideration for B requests, best first; row -1 pads the tail and is never read."""

    rows: Int32  # [B, N]
    scores: Float32  # [B, N] of the stage that made them; -inf at padding
    channels: Float32  # [B, N, 2] raw retrieval scores: tower, linear; 0 at padding

    def __post_init__(self) -> None:
        if self.scores.shape != self.rows.shape or self.channels.shape != (*self.rows.shape, 2):
            raise ValueError(f"shapes disagree: {self.rows.shape}, {self.scores.shape}, {self.channels.shape}")

    def head(self, depth: int) -> Candidates:
        """The first `depth` candidates of every request."""
        return Candidates(self.rows[:, :depth], self.scores[:, :depth], self.channels[:, :depth])


@dataclass(frozen=True, slots=True)
class Slate:
    """The answer to one request: at most k items, best first."""

    item_ids: tuple[bytes, ...]
    scores: Float32  # [k] calibrated probability, or the score of the last stage that ran
    propensities: Float32  # [k] probability that exploration showed the item there; 1 when deterministic
    status: str
    trace: dict[str, Any] | None = None
    share: float = 1.0  # of the full effort that went into it; less under load, or before a near deadline
