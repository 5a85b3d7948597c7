"""Stage 2: the quantized student scores every candidate; a fifth of them go on."""

from __future__ import annotations

import numpy as np
from numba import njit

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.stages.session import open_session
from shortlist.types import Candidates, Float32, Int32, Int64, UserBatch


class Filter:
    """An INT8 MLP over [user ⊙ item | item features | retrieval scores | side], one row a candidate."""

    def __init__(self, bundle: Bundle, catalog: Catalog) -> None:
        self.retrieval = catalog.part("retrieval")
        self.features = catalog.part("features")
        self._session = open_session(bundle.graph("filter"))

    def __call__(self, users: UserBatch, candidates: Candidates, depth: int) -> Candidates:
        """The `depth` candidates that the student scores highest."""
        return keep_best(candidates, self.score(users, candidates), depth)

    def score(self, users: UserBatch, candidates: Candidates) -> Float32:
        """Student scores [B, N]; -inf at padding."""
        inputs = fuse_features(
            candidates.rows, candidates.channels, users.vectors, users.side, self.retrieval, self.features
        )
        (scores,) = self._session.run(None, {"features": inputs})
        return np.where(candidates.rows >= 0, scores.reshape(candidates.rows.shape), np.float32(-np.inf))


def keep_best(candidates: Candidates, scores: Float32, depth: int) -> Candidates:
    """The `depth` best of `candidates` by `scores` [B, N], best first; equal scores keep the earlier order.

    NaN counts as -inf, and so stays before the padding.
    """
    numbers: Float32 = np.fmax(scores, np.float32(-np.inf))
    order: Int64 = np.argsort(-numbers, axis=1, kind="stable")[:, :depth]
    return candidates.take(order, numbers[np.arange(len(order))[:, None], order])


@njit(nogil=True)
def fuse_features(
    rows: Int32,  # [B, N]
    channels: Float32,  # [B, N, C]
    vectors: Float32,  # [B, D]
    side: Float32,  # [B, S]
    retrieval: Float32,  # [items, D]
    features: Float32,  # [items, F]
) -> Float32:
    """The student's input [B·N, D + F + C + S]; zeros for row -1."""
    batch, count = rows.shape
    dim, width, extra, sides = vectors.shape[1], features.shape[1], channels.shape[2], side.shape[1]
    fused = np.zeros((batch * count, dim + width + extra + sides), np.float32)
    for b in range(batch):
        for n in range(count):
            row = rows[b, n]
            if row < 0:
                continue
            out = fused[b * count + n]
            for d in range(dim):
                out[d] = vectors[b, d] * retrieval[row, d]
            for i in range(width):
                out[dim + i] = features[row, i]
            for i in range(extra):
                out[dim + width + i] = channels[b, n, i]
            for i in range(sides):
                out[dim + width + extra + i] = side[b, i]
    return fused
