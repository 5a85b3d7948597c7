"""Decides, on examples that taught nothing, how far a trained ranker is trusted and what its scores mean.

Metrics here are over retrieved candidates; those that are published come from `shortlist.evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shortlist.training.negatives import CandidateSet
from shortlist.types import Float32

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CUTOFF = 10


@dataclass(frozen=True, eq=False)
class RankingScores:
    """The two parts of the logits of E requests, [E, K] each."""

    retrieval: Float32
    deviation: Float32

    def combined(self, weight: float) -> Float32:
        return self.retrieval + np.float32(weight) * self.deviation


def choose_weight(judges: list[tuple[CandidateSet, RankingScores]]) -> float:
    """The weight of the deviation by evidence of all judges together; 0 unless the evidence is there.

    The likelihood of the target among its candidates decides, being far less noisy than NDCG; a weight is allowed
    only if the mean NDCG@10 over all examples does not fall below that of the retriever.
    """
    base = np.concatenate([ndcg(candidates, parts.combined(0.0)) for candidates, parts in judges])
    best, best_likelihood = 0.0, -np.inf
    for weight in WEIGHTS:
        likelihood = np.concatenate([log_likelihood(c, parts.combined(weight)) for c, parts in judges])
        gain = np.concatenate([ndcg(c, parts.combined(weight)) for c, parts in judges]) - base
        if len(likelihood) and gain.mean() >= 0 and likelihood.mean() > best_likelihood:
            best, best_likelihood = weight, float(likelihood.mean())
    return best


def ndcg(candidates: CandidateSet, scores: Float32, cutoff: int = CUTOFF) -> Float32:
    """NDCG@cutoff [E] of each target among its candidates; 0 where it was not retrieved; ties count half."""
    found = candidates.found()
    real = np.where(candidates.rows >= 0, scores, -np.inf)
    of_target = real[np.arange(len(real)), found.argmax(axis=1)][:, None]
    rank = (real > of_target).sum(axis=1) + ((real == of_target).sum(axis=1) - 1) / 2
    return np.where(found.any(axis=1) & (rank < cutoff), 1 / np.log2(rank + 2), 0.0).astype(np.float32)


def log_likelihood(candidates: CandidateSet, scores: Float32) -> Float32:
    """Log-softmax of the target among the candidates, for the examples whose target was retrieved."""
    found = candidates.found()
    has = found.any(axis=1)
    real = np.where(candidates.rows[has] >= 0, scores[has], -np.inf)
    shifted = real - real.max(axis=1, keepdims=True, initial=-1e30)
    of_target = shifted[np.arange(len(shifted)), found[has].argmax(axis=1)]
    likelihood: Float32 = (of_target - np.log(np.exp(shifted).sum(axis=1))).astype(np.float32)
    return likelihood


def fit_platt(scores: Float32, candidates: CandidateSet, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept of sigmoid(slope · logit + intercept) = P(candidate is the next event), by Newton's method.

    Platt, 1999, with his smoothed targets; the slope is kept positive so that calibration never changes an order.
    """
    real = candidates.rows >= 0
    logits, hits = scores[real].astype(np.float64), candidates.found()[real]
    positives, negatives = int(hits.sum()), int((~hits).sum())
    if not positives or not negatives:
        return 1.0, 0.0
    labels = np.where(hits, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    weights = np.array([1.0, np.log(positives / negatives) - logits[hits].mean()])
    for _ in range(steps):
        predicted = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (predicted - labels))
        weights -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])
