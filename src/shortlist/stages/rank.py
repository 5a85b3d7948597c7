"""Stage 3: the cross-attention ranker. Candidates are queries over the user's history and never see each other."""

from __future__ import annotations

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.stages.best import keep_best
from shortlist.types import Candidates, Float32, UserBatch


class Rank:
    """The exported ranker; scores are calibrated probabilities."""

    def __init__(self, bundle: Bundle, catalog: Catalog, device: Device | None = None) -> None:
        self.catalog = catalog
        device = device or Cpu()
        self._xp = device.xp
        self._ranker = device.scorer(bundle, "ranker")

    def __call__(self, users: UserBatch, candidates: Candidates, depth: int) -> Candidates:
        """The `depth` candidates that the ranker scores highest."""
        return keep_best(candidates, self.score(users, candidates), depth)

    def score(self, users: UserBatch, candidates: Candidates) -> Float32:
        """Calibrated probabilities [B, N]; -inf at padding."""
        features = self.catalog.gather(candidates.rows, "features")
        inputs = {
            "history": self.catalog.gather(users.history, "ranker"),
            "lengths": users.lengths,
            "candidates": self.catalog.gather(candidates.rows, "ranker"),
            "features": self._xp.concatenate([features, candidates.channels], axis=2),
            "side": users.side,
        }
        scores: Float32 = self._xp.where(candidates.rows >= 0, self._ranker(inputs), np.float32(-np.inf))
        return scores
