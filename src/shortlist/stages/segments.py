"""Lists of segments: what somebody known gets when there is time for their vector, and for little more.

The vector of the moment, live history included, chooses a segment and orders its list; so what a person does moves what
they see here too. Segments come from a store while the server runs: `shortlist.serving.segments` makes them.
"""

from __future__ import annotations

import numpy as np

from shortlist.bitmap import contains
from shortlist.stages.popularity import Popularity
from shortlist.types import Candidates, Float32, Int32, UserBatch


class SegmentLists:
    """The K lists of a bundle's segments."""

    def __init__(self, popularity: Popularity, vectors: Float32, centroids: Float32, rows: Int32) -> None:
        """`vectors` [N, D] of the items, `centroids` [K, D] of the people; `rows` [K, T] are the lists."""
        self._popularity = popularity
        self._centroids = centroids
        self._rows = rows
        self._items = vectors[rows]  # [K, T, D]

    @property
    def length(self) -> int:
        """T: items of a list."""
        return self._rows.shape[1]

    def __call__(self, users: UserBatch, depth: int) -> Candidates:
        """The best `depth` items of each user's segment that are eligible and not masked; users have their vectors.

        Where the list is too short for that, what is popular follows.
        """
        shape = len(users), depth
        found = Candidates(
            np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32), np.zeros((*shape, 2), "f4")
        )
        eligible = users.eligible or (None,) * len(users)
        for b, segment in enumerate((users.vectors @ self._centroids.T).argmax(axis=1)):
            rows, scores = self._rows[segment], self._items[segment] @ users.vectors[b]
            free = ~np.isin(rows, users.masked[b])
            if (allowed := eligible[b]) is not None:
                free &= contains(allowed.bits, rows)
            best = np.flatnonzero(free)[np.argsort(-scores[free], kind="stable")[:depth]]
            found.rows[b, : len(best)] = rows[best]
            found.scores[b, : len(best)] = found.channels[b, : len(best), 0] = scores[best]
        self._fill(found, users, depth)
        return found

    def _fill(self, found: Candidates, users: UserBatch, depth: int) -> None:
        """Put popular items behind lists that are too short, with scores below theirs."""
        short = np.flatnonzero(found.rows[:, -1] < 0)
        if not len(short):
            return
        popular = self._popularity(users.take(short), depth)
        for b, rows, shares in zip(short, popular.rows, popular.scores, strict=True):
            count = int((found.rows[b] >= 0).sum())
            further = np.flatnonzero((rows >= 0) & ~np.isin(rows, found.rows[b]))[: depth - count]
            bound = found.scores[b, count - 1] if count else np.float32(0)
            found.rows[b, count : count + len(further)] = rows[further]
            found.scores[b, count : count + len(further)] = bound - 1 + shares[further]
