"""The best items of a trained retriever in a catalogue too large to score whole for every example.

FAISS proposes by the towers' inner product, the item-item channels propose their own best, and every proposal is scored
exactly: as in serving, but many requests at a time and without a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.models.retriever import Retriever
from shortlist.types import Float32, Int32, Int64

EXACT_UP_TO = 50_000  # items; up to here all of them are scored
POINTS_PER_CLUSTER = 40  # that FAISS fits the clusters on
PROBED = 48  # clusters; of 1024 to 4096, this finds nearly all of the nearest few hundred
SPARE = 4  # times the depth: most proposals that make up for masked ones, and most of the channels' own


class NearestItems:
    """Answers like `Retriever.scores`, but with the best rows alone."""

    def __init__(self, retriever: Retriever, seed: int = 0) -> None:
        self.retriever = retriever
        self.vectors = retriever.item_vectors()
        self.channels = [(channel.matrix(), channel.decay) for channel in retriever.channels]
        self.index = _build(self.vectors, seed)

    def nearest(
        self, history: Int64, lengths: Int64, side: Float32, depth: int, masked: Sequence[NDArray[Any]]
    ) -> tuple[Int32, Float32]:
        """The `depth` best rows [B, K], -1 where nothing is left, and their tower and linear scores [B, K, 2].

        `masked` lists for each request the rows that it must not get; histories are as `Retriever.scores` takes them.
        """
        users = self.retriever.user_vectors(history, lengths, side)
        spare = min(max((len(rows) for rows in masked), default=0), SPARE * depth)
        _, near = self.index.search(users, min(depth + spare, len(self.vectors)))
        linear = self._linear(history, lengths)
        rows = np.full((len(users), depth), -1, np.int32)
        channels = np.zeros((len(users), depth, 2), np.float32)
        for b, (proposed, hidden) in enumerate(zip(near, masked, strict=True)):
            pool = _pool(proposed, linear, b, SPARE * depth, hidden)
            scores = np.stack([self.vectors[pool] @ users[b], _entries(linear, b, pool)], axis=1)
            best = np.argsort(-scores.sum(axis=1), kind="stable")[:depth]
            rows[b, : len(best)], channels[b, : len(best)] = pool[best], scores[best]
        return rows, channels

    def of_items(self, history: Int64, lengths: Int64, side: Float32, items: Int32) -> Float32:
        """Tower and linear score of one item for each request: items [B] -> [B, 2]."""
        users = self.retriever.user_vectors(history, lengths, side)
        tower = np.einsum("bd,bd->b", users, self.vectors[items])
        linear = self._linear(history, lengths)
        scores = [tower, [float(_entries(linear, b, items[b : b + 1])[0]) for b in range(len(items))]]
        return np.stack(scores, axis=1, dtype=np.float32, casting="unsafe")

    def _linear(self, history: Int64, lengths: Int64) -> sparse.csr_matrix | None:
        """Scores of the channels [B, N], of which most are 0; None without channels."""
        total = None
        ages = lengths[:, None] - 1 - np.arange(history.shape[1])
        batch, place = np.nonzero(ages >= 0)
        for weights, decay in self.channels:
            faded = (decay ** ages[batch, place]).astype(np.float32)
            shape = (len(history), len(self.vectors))
            scores = sparse.csr_matrix((faded, (batch, history[batch, place])), shape=shape) @ weights
            total = scores if total is None else total + scores
        if total is not None:
            total.sort_indices()
        return total


def _build(vectors: Float32, seed: int) -> Any:
    """Clusters with the vectors in 8 bits: proposals are scored again, so that nothing finer is needed."""
    clusters = int(2 ** round(np.log2(2 * np.sqrt(len(vectors)))))
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(seed).permutation(len(vectors))[: POINTS_PER_CLUSTER * clusters]
    index.train(vectors[sample])
    index.add(vectors)
    index.nprobe = min(PROBED, clusters)
    return index


def _pool(proposed: Int64, linear: sparse.csr_matrix | None, b: int, most: int, hidden: NDArray[Any]) -> Int64:
    """Rows that may be among the best: FAISS's, and the best of the channels, `most` at most; none that is hidden."""
    pool = proposed[proposed >= 0]
    if linear is not None:
        part = slice(linear.indptr[b], linear.indptr[b + 1])
        listed, scores = linear.indices[part], linear.data[part]
        if len(listed) > most:
            listed = listed[np.argpartition(-scores, most)[:most]]
        pool = np.union1d(pool, listed)
    return pool[~np.isin(pool, hidden)] if len(hidden) else pool


def _entries(linear: sparse.csr_matrix | None, b: int, rows: NDArray[Any]) -> Float32:
    """Row b of the matrix at the columns `rows`."""
    if linear is None:
        return np.zeros(len(rows), np.float32)
    part = slice(linear.indptr[b], linear.indptr[b + 1])
    listed, scores = linear.indices[part], linear.data[part]
    if not len(listed):
        return np.zeros(len(rows), np.float32)
    place = np.minimum(np.searchsorted(listed, rows), len(listed) - 1)
    return np.where(listed[place] == rows, scores[place], 0).astype(np.float32)
