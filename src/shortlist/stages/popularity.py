"""Popularity by context: what cold users get, and what answers when nothing else can in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shortlist.bitmap import contains, rows_of
from shortlist.bundle import Bundle
from shortlist.types import Candidates, Eligible, Float32, Int32, UserBatch

EVERYONE = "popularity_everyone"  # array of the bundle


class Popularity:
    """Top lists per segment: `rows` and `shares` [G, T], best first. Segment 0 is everyone.

    The other segments are values of one context field; a request without that field belongs to segment 0. `everyone`
    [N] has the share of every item, where the bundle has attributes that predicates may ask about. `now` are the lists
    that are used: the bundle's, until somebody who knows better puts others there (`shortlist.stages.trends`).
    """

    def __init__(self, bundle: Bundle) -> None:
        self.rows: Int32 = bundle.array("popularity_rows")
        self.shares: Float32 = bundle.array("popularity_shares")
        self.now = self.rows, self.shares
        known = bundle.has(f"{EVERYONE}.npy")
        self.everyone: Float32 = bundle.array(EVERYONE) if known else np.empty(0, np.float32)
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
        """The `depth` most popular items of each user's segment that are eligible and not masked.

        Where a predicate leaves too few of the segment's list, everyone's most popular eligible items follow.
        """
        rows = np.full((len(users), depth), -1, np.int32)
        scores = np.full((len(users), depth), -np.inf, np.float32)
        eligible = users.eligible or (None,) * len(users)
        listed, shares = self.now
        for b, (segment, masked, allowed) in enumerate(zip(users.segments, users.masked, eligible, strict=True)):
            free = ~np.isin(listed[segment], masked)
            if allowed is not None:
                free &= contains(allowed.bits, listed[segment])
            places = np.flatnonzero(free)[:depth]
            count = len(places)
            rows[b, :count] = listed[segment, places]
            scores[b, :count] = shares[segment, places]
            if allowed is not None and count < depth:
                self._fill(rows[b], scores[b], count, masked, allowed)
        return Candidates(rows, scores, np.zeros((*rows.shape, 2), np.float32))

    def _fill(self, rows: Int32, scores: Float32, count: int, masked: Int32, eligible: Eligible) -> None:
        """Put eligible items behind the first `count`, whose scores bound theirs: they are not on that list."""
        if eligible.popular is None:
            eligible.popular = self._most_popular(eligible)
        taken = np.concatenate([masked, rows[:count]])
        further = eligible.popular[~np.isin(eligible.popular, taken)][: len(rows) - count]
        bound = scores[count - 1] if count else np.float32(np.inf)
        rows[count : count + len(further)] = further
        scores[count : count + len(further)] = np.minimum(self.everyone[further], bound)

    def _most_popular(self, eligible: Eligible) -> Int32:
        """As many of the eligible items as a list holds, everyone's most popular first; behind them the new ones."""
        rows = rows_of(eligible.bits, eligible.count if len(self.everyone) else 0).astype(np.int32)
        shares, most = self.everyone[rows], self.rows.shape[1]
        if len(rows) > most:
            rows = np.sort(rows[np.argpartition(-shares, most)[:most]])
            shares = self.everyone[rows]
        rows = rows[np.argsort(-shares, kind="stable")]
        return rows if eligible.added is None or not len(self.everyone) else np.concatenate([rows, eligible.added])
