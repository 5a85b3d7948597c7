"""EASE (Steck 2019) as a baseline: the closed-form item-item model, scored with recency-weighted histories.

The weights are computed by `shortlist.models.linear`, the same code that fits the retriever's linear channel.
"""

from __future__ import annotations

from typing import Self

from scipy import sparse

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.evaluation.recommender import CatalogueScorer, history_matrix, item_weights, weigh
from shortlist.models.linear import ease
from shortlist.types import Float32


class Ease(CatalogueScorer):
    """Scores decayed histories by EASE's item-item weights."""

    def __init__(self, train: InteractionLog, mask_seen: bool, weights: sparse.csr_matrix, decay: float) -> None:
        super().__init__("ease", train, mask_seen)
        self.weights, self.decay = item_weights(weights), decay

    @classmethod
    def fit(
        cls,
        train: InteractionLog,
        mask_seen: bool,
        *,
        regularization: float = 200.0,
        decay: float = 0.9,
        neighbours: int = 2000,
    ) -> Self:
        """Invert the Gram matrix of the training log; each item keeps its `neighbours` largest weights."""
        return cls(train, mask_seen, ease(train, regularization, decay, neighbours).matrix(), decay)

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        """Weighted sums over the history, Float32[B, N]."""
        return weigh(history_matrix(examples, start, stop, self.decay), self.weights)
