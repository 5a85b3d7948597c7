"""Popularity by context: what cold users get, and what answers when nothing else can in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shortlist.bundle import Bundle
from shortlist.types import Candidates, Float32, Int32, UserBatch


class Popularity:
    """Top lists per segment: `rows` and `shares` [G, T], best first. Segment 0 is everyone.

    The other segments are values of one context field; a request without that field belongs to segment 0.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.rows: Int32 = bundle.array("popularity_rows")
        self.shares: Float32 = bundle.array("popularity_shares")
        document = bundle.document("popularity")
        self.field: str | None = document["field"]
        self.values: dict[str, int] = {value: i + 1 for i, value in enumerate(document["values"])}

    def segments(self, contexts: Sequence[Mapping[str, Any]]) -> Int32:
        """Segment of each context: Int32[B]."""
        if self.field is None:
            return np.zeros(len(contexts), np.int32)
        given = (c.get(self.field) for c in contexts)
        return np.array([0 if v is None else self.values.get(str(v), 0) for v in given], np.int32)

    def __call__(self, users: UserBatch, depth: int) -> Candidates:
        """The `depth` most popular items of each user's segment that are not masked."""
        rows = np.full((len(users), depth), -1, np.int32)
        scores = np.full((len(users), depth), -np.inf, np.float32)
        for b, (segment, masked) in enumerate(zip(users.segments, users.masked, strict=True)):
            allowed = np.flatnonzero(~np.isin(self.rows[segment], masked))[:depth]
            rows[b, : len(allowed)] = self.rows[segment, allowed]
            scores[b, : len(allowed)] = self.shares[segment, allowed]
        return Candidates(rows, scores, np.zeros((*rows.shape, 2), np.float32))
