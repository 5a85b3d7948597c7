"""What can be evaluated, and the masked ranking of a whole catalogue that every scoring model shares.

`Recommender` is the one interface of this package: the cascade, each of its stages and every baseline implement it.
What a model learns is its own business; which examples it is asked about is the business of
`shortlist.evaluation.protocols`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.types import Float32, Int32, Int64

REPEATS_ARE_A_HABIT = 0.05  # from this repeat rate on, items of the history may be recommended again
DENSE_UP_TO, DENSE_FROM = 20_000, 0.05  # items, and share of non-zero weights


class Recommender(Protocol):
    """A model under evaluation."""

    @property
    def name(self) -> str:
        """Its name in tables and in the JSON."""

    def top(self, examples: Examples, start: int, stop: int, k: int) -> Int32:
        """Item rows for examples start:stop, best first: Int32[B, k], -1 pads the tail."""


@runtime_checkable
class Scorer(Protocol):
    """A recommender that can also score the whole catalogue, which AUC needs."""

    def scores(self, examples: Examples, start: int, stop: int) -> Float32:
        """Scores of all items, Float32[B, N], higher is better. The caller may overwrite them."""


class CatalogueScorer(ABC):
    """Base of recommenders that score every item; ranks them, and leaves seen items out where `mask_seen`.

    Where a history says nothing (it is empty, or holds only unknown items, so that all scores are equal), the
    popularity of the training log ranks instead: a sensible deployment of each of these models would do the same.
    """

    def __init__(self, name: str, train: InteractionLog, mask_seen: bool) -> None:
        self.name = name
        self.mask_seen = mask_seen
        self.popularity = popularity_share(train.popularity())

    @abstractmethod
    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """Raw scores of all items, Float32[B, N]."""

    def scores(self, examples: Examples, start: int, stop: int) -> Float32:
        """Scores of all items, Float32[B, N], with popularity where the history says nothing."""
        scores = self.score(examples, start, stop)
        scores[scores.max(axis=1) == scores.min(axis=1)] = self.popularity
        return scores

    def top(self, examples: Examples, start: int, stop: int, k: int) -> Int32:
        """Item rows, best first, Int32[B, k]."""
        return self.rank(self.scores(examples, start, stop), examples, start, k)

    def rank(self, scores: Float32, examples: Examples, start: int, k: int) -> Int32:
        """The k best of `scores` [B, N], which belong to the examples from `start` on and are overwritten."""
        if self.mask_seen:
            mask_histories(scores, examples, start)
        return top_rows(scores, k)


def popularity_share(counts: Int64 | NDArray[np.float64]) -> Float32:
    """Counts [N] scaled into [0, 1), so that they order items below any positive evidence."""
    share: Float32 = (counts / (counts.max(initial=0) + 1.0)).astype(np.float32)
    return share


def masks_seen(log: InteractionLog) -> bool:
    """Whether items of the history are left out of the ranking: unless repeating them is a habit of the data."""
    return log.repeat_rate() <= REPEATS_ARE_A_HABIT


def item_weights(weights: sparse.csr_matrix) -> sparse.csr_matrix | Float32:
    """The same [N, N] weights, as a dense array where they are mostly full: that multiplies ten times as fast."""
    n_items = weights.shape[0]
    if n_items <= DENSE_UP_TO and weights.nnz > DENSE_FROM * n_items**2:
        dense: Float32 = weights.toarray()
        return dense
    return weights


def weigh(history: sparse.csr_matrix, weights: sparse.csr_matrix | Float32) -> Float32:
    """Sums of item weights over histories: [B, N] x [N, N] -> Float32[B, N]."""
    product = history @ weights
    scores: Float32 = product.toarray() if sparse.issparse(product) else product
    return scores


def history_pairs(examples: Examples, start: int, stop: int) -> tuple[Int64, Int64, Int64]:
    """The whole histories of examples start:stop, flat and unpadded.

    Returns the example within the batch, the item row, and the age (0 is the most recent), each Int64[P].
    """
    lengths = examples.positions[start:stop].astype(np.int64)
    batch = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    oldest = examples.log.offsets[examples.users[start:stop]]
    rows = examples.log.rows[oldest[batch] + within].astype(np.int64)
    return batch, rows, lengths[batch] - 1 - within


def history_matrix(examples: Examples, start: int, stop: int, decay: float = 1.0) -> sparse.csr_matrix:
    """Histories as sparse rows, Float32[B, N]: an item of age a weighs decay ** a; repeats add up."""
    batch, rows, ages = history_pairs(examples, start, stop)
    weights = (decay**ages).astype(np.float32)
    shape = (min(stop, len(examples)) - start, examples.log.n_items)
    return sparse.csr_matrix((weights, (batch, rows)), shape=shape, dtype=np.float32)


def mask_histories(scores: Float32, examples: Examples, start: int) -> None:
    """Set the scores [B, N] of each history's items to -inf, in place."""
    batch, rows, _ = history_pairs(examples, start, start + len(scores))
    scores[batch, rows] = -np.inf


def top_rows(scores: Float32, k: int) -> Int32:
    """The k best columns of each row, best first, Int32[B, k]; -1 where fewer than k scores are finite."""
    width = min(k, scores.shape[1])
    best = torch.topk(torch.from_numpy(scores), width, dim=1)
    rows = np.full((len(scores), k), -1, np.int32)
    rows[:, :width] = best.indices.numpy()
    rows[:, :width][np.isneginf(best.values.numpy())] = -1
    return rows


def lift(scores: Float32, rows: Int32) -> Float32:
    """Scores [B, N] with the items of `rows` [B, K] (best first, -1 pads) above all others, in that order.

    This completes the short list of a cascade to an order of the whole catalogue, as AUC needs: what the last stage
    returned comes first, the rest follows as retrieval scored it.
    """
    lifted = scores.copy()
    batch, place = np.nonzero(rows >= 0)
    ceiling = np.where(np.isfinite(scores), scores, -np.inf).max(axis=1)
    step = np.maximum(np.abs(ceiling), 1.0) * 1e-3
    lifted[batch, rows[batch, place]] = ceiling[batch] + step[batch] * (rows.shape[1] - place)
    return lifted
