"""Weights of several scorers in one sum, chosen on validation by coordinate search.

A member's weight is tried in units of its own spread against the base member's, since towers and closed-form channels
live on different scales. What comes out are constants. It knows score matrices, not what made them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shortlist.types import Float32, Int64

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.4, 3.2, 5.0)  # of the base member's spread
SWEEPS = 2
CUTOFF = 50  # places counted while choosing: deeper than what is reported, for the figure is steadier
BATCH = 512


def choose_weights(members: Sequence[Float32], targets: Int64) -> tuple[list[float], float]:
    """Weights of `members` (score matrices [E, N], -inf where masked) that rank `targets` [E] best, and their NDCG@10.

    The member that is best alone is the base, of weight 1; others enter one by one, and stay out (weight 0) unless they
    help. Ties go to the smaller weight.
    """
    alone = [ndcg([member], [1.0], targets) for member in members]
    base = int(np.argmax(alone))
    weights, best = [0.0] * len(members), alone[base]
    weights[base] = 1.0
    units = [_spread(members[base]) / _spread(member) for member in members]
    for _ in range(SWEEPS):
        before = list(weights)
        for i in range(len(members)):
            if i == base:
                continue
            for trial in [0.0, *(ratio * units[i] for ratio in RATIOS)]:
                tried = [*weights[:i], trial, *weights[i + 1 :]]
                found = ndcg(members, tried, targets)
                if found > best:
                    weights, best = tried, found
        if weights == before:
            break
    return weights, ndcg(members, weights, targets, 10)


def ndcg(members: Sequence[Float32], weights: Sequence[float], targets: Int64, cutoff: int = CUTOFF) -> float:
    """Mean NDCG@cutoff of the weighted sum of the members; ties count half."""
    total = 0.0
    for start in range(0, len(targets), BATCH):
        part = slice(start, start + BATCH)
        fused = sum(weight * member[part] for member, weight in zip(members, weights, strict=True) if weight)
        scores = np.asarray(fused)
        wanted = scores[np.arange(len(scores)), targets[part]][:, None]
        rank = (scores > wanted).sum(axis=1) + ((scores == wanted).sum(axis=1) - 1) / 2
        total += float(np.where((rank < cutoff) & np.isfinite(wanted[:, 0]), 1 / np.log2(rank + 2), 0.0).sum())
    return total / len(targets)


def _spread(scores: Float32) -> float:
    """How far the best item of an example stands above the average one, in the mean."""
    total = 0.0
    for start in range(0, len(scores), BATCH):
        part = scores[start : start + BATCH]
        finite = np.isfinite(part)
        mean = np.where(finite, part, 0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
        total += float((part.max(axis=1) - mean)[finite.any(axis=1)].sum())
    return max(total / max(len(scores), 1), 1e-9)
