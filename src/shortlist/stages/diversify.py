"""Stage 4: greedy MMR over the ranked candidates, and exploration where a deployment asks for it."""

from __future__ import annotations

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.kernels.mmr import mmr
from shortlist.types import Candidates, Float32, Int32, Int64


class Diversify:
    """Chooses slates so that items are relevant and unlike each other (cosine of the catalogue's diversity columns).

    Relevance is the sigmoid of the last stage's score, standardised by constants fitted in training: comparable with
    a cosine, the same for every request.
    """

    def __init__(self, bundle: Bundle, catalog: Catalog) -> None:
        self.catalog = catalog
        self.scales: dict[str, tuple[float, float]] = {k: (m, s) for k, (m, s) in bundle.document("scales").items()}

    def __call__(self, candidates: Candidates, stage: str, diversity: Float32, k: int) -> Int32:
        """Positions [B, K] of the chosen candidates in slate order, -1 where there are fewer.

        `stage` names whose scores the candidates carry; `diversity` [B] is 1 - λ.
        """
        lengths: Int64 = (candidates.rows >= 0).sum(axis=1)
        relevance = self._relevance(candidates.scores, stage)
        vectors = self.catalog.gather(candidates.rows, "diversity")
        picks: Int32 = mmr(vectors, relevance, lengths, np.float32(1) - diversity, k)
        return picks

    def _relevance(self, scores: Float32, stage: str) -> Float32:
        mean, deviation = self.scales[stage]
        scores = np.fmax(scores, np.float32(-np.inf))  # what is no number is the least relevant
        if stage in ("rank", "popularity"):
            safe = np.clip(scores, 1e-7, 1 - 1e-7)
            scores = np.log(safe) - np.log1p(-safe)
        z = np.clip((scores - mean) / deviation, -30, 30)
        relevance: Float32 = (1 / (1 + np.exp(-z))).astype(np.float32)
        return relevance


def explore(picks: Int32, count: int, rate: float, rng: np.random.Generator) -> tuple[Int32, Float32]:
    """With probability `rate` a slot shows a uniformly drawn candidate instead (ε-greedy, slot by slot).

    `picks` [K] are positions among `count` candidates, without -1. Returns the positions shown, all different, and the
    probability [K] that each was shown in its slot given the slots before it.
    """
    plan: list[int] = picks.tolist()
    shown: list[int] = []
    propensities = np.ones(len(plan), np.float32)
    for slot in range(len(plan)):
        choice = planned = next(p for p in plan if p not in shown)
        if rng.random() < rate:
            choice = int(rng.choice([i for i in range(count) if i not in shown]))
        propensities[slot] = rate / (count - slot) + (1 - rate) * (choice == planned)
        shown.append(choice)
    return np.array(shown, np.int32), propensities
