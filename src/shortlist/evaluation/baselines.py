"""Baselines that any recommender should beat: popularity, item-kNN, EASE and ALS.

Each is fitted on a training log alone and then asked about examples of any log with the same items: it reads the
history it is given, so no user needs to have been in training. How fast that history fades (`decay`) is chosen on the
validation examples. SASRec, which has to be trained by gradient, is in `sasrec`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy import sparse

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.errors import MissingExtraError
from shortlist.evaluation.metrics import Float64
from shortlist.evaluation.recommender import CatalogueScorer, history_matrix, item_weights, popularity_share, weigh
from shortlist.types import Float32, Int64

KNN_BLOCK = 500  # items whose similarities are computed at once


class Popularity(CatalogueScorer):
    """The items with the most training events; with `half_life`, an event of that age (in seconds) counts half."""

    def __init__(self, train: InteractionLog, mask_seen: bool, counts: Float64) -> None:
        super().__init__("popularity", train, mask_seen)
        self.ranking = popularity_share(counts)

    @classmethod
    def fit(cls, train: InteractionLog, mask_seen: bool, *, half_life: float | None = None) -> Self:
        """Count the events of `train`, decayed to its last timestamp when `half_life` is given."""
        if half_life is None:
            return cls(train, mask_seen, train.popularity().astype(np.float64))
        ages = train.timestamps.max(initial=0) - train.timestamps
        weights = np.exp2(-ages / half_life)
        return cls(train, mask_seen, np.bincount(train.rows, weights, minlength=train.n_items).astype(np.float64))

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """The same scores for everyone, Float32[B, N]."""
        return np.tile(self.ranking, (stop - start, 1))


class ItemNeighbours(CatalogueScorer):
    """Item-kNN: summed cosine between each item and the history (Sarwar et al. 2001), history weights decay ** age.

    Items without any evidence follow in order of popularity.
    """

    def __init__(self, train: InteractionLog, mask_seen: bool, weights: sparse.csr_matrix, decay: float) -> None:
        super().__init__("item-knn", train, mask_seen)
        self.weights, self.decay = item_weights(weights), decay

    @classmethod
    def fit(
        cls, train: InteractionLog, mask_seen: bool, *, neighbours: int = 500, shrink: float = 10.0, decay: float = 1.0
    ) -> Self:
        """Keep the `neighbours` most similar items of each; `shrink` damps similarities of rarely seen items."""
        return cls(train, mask_seen, cosine_neighbours(train, neighbours, shrink), decay)

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """Summed similarities, Float32[B, N]."""
        scores = weigh(history_matrix(examples, start, stop, self.decay), self.weights)
        return np.where(scores > 0, scores, self.popularity - 1.0).astype(np.float32)


class AlternatingLeastSquares(CatalogueScorer):
    """Implicit ALS (Hu et al. 2008) by the library `implicit`; each user is folded in from the history given.

    A history item of age a has confidence alpha × decay ** a.
    """

    def __init__(self, train: InteractionLog, mask_seen: bool, model: Any, decay: float) -> None:
        super().__init__("als", train, mask_seen)
        self.model, self.decay = model, decay

    @classmethod
    def fit(
        cls,
        train: InteractionLog,
        mask_seen: bool,
        *,
        factors: int = 64,
        regularization: float = 5.0,
        alpha: float = 5.0,
        iterations: int = 15,
        decay: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """Factorise the binary training matrix. Raises MissingExtraError without the package `implicit`."""
        try:
            from implicit.cpu.als import AlternatingLeastSquares as Model
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise MissingExtraError("implicit", "baselines") from error
        with threadpool_limits(1, "blas"):
            model = Model(factors, regularization, alpha, iterations=iterations, random_state=seed)
            model.fit(binary_matrix(train), show_progress=False)
        return cls(train, mask_seen, model, decay)

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """Inner products of folded-in users and items, Float32[B, N]."""
        history = history_matrix(examples, start, stop, self.decay)
        users: Float32 = self.model.recalculate_user(np.arange(stop - start), history)
        scores: Float32 = users @ self.model.item_factors.T
        return scores


def binary_matrix(log: InteractionLog) -> sparse.csr_matrix:
    """Who ever had what: Float32[U, N], 1 for every distinct pair."""
    shape = (log.n_users, log.n_items)
    matrix = sparse.csr_matrix((np.ones(len(log), np.float32), (log.users(), log.rows)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def cosine_neighbours(log: InteractionLog, neighbours: int, shrink: float = 0.0) -> sparse.csr_matrix:
    """Cosines of item columns, Float32[N, N]; column c holds the `neighbours` largest of item c, without itself.

    Computed for a block of items at a time: the N × N matrix is never dense.
    """
    seen = binary_matrix(log)
    norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
    by_item = seen.T.tocsr()
    blocks = []
    for start in range(0, log.n_items, KNN_BLOCK):
        block = (by_item[start : start + KNN_BLOCK] @ seen).tocoo()  # common users
        items = block.row + start
        cosine = block.data / (norms[items] * norms[block.col] + shrink)
        cosine[items == block.col] = 0.0
        blocks.append(_keep_largest(sparse.csr_matrix((cosine, (block.row, block.col)), shape=block.shape), neighbours))
    return sparse.vstack(blocks, format="csr").T.tocsr().astype(np.float32)


def _keep_largest(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The k largest positive entries of each row."""
    entries = matrix.tocoo()
    order = np.lexsort((-entries.data, entries.row))
    starts: Int64 = np.concatenate([[0], np.cumsum(np.bincount(entries.row, minlength=matrix.shape[0]))])
    place = np.arange(len(order)) - starts[entries.row[order]]
    kept = order[(place < k) & (entries.data[order] > 0)]
    return sparse.csr_matrix((entries.data[kept], (entries.row[kept], entries.col[kept])), shape=matrix.shape)
