"""Ranking metrics, one value per example, so that the bootstrap can resample them; means come last.

Every example has one relevant item, its target: recall@k therefore equals HR@k, the ideal DCG is 1, and MRR is the mean
of 1 / rank. Lists hold catalogue rows, best first, padded with -1. Nothing here knows a model or a split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.types import Bool, Float32, Int32, Int64

Float64 = NDArray[np.float64]
PerExample = dict[str, Float64]  # metric -> [E]

CUTOFFS = (10, 50)
MISSED = np.iinfo(np.int64).max // 2  # rank of a target that is not in the list
CHUNK = 512  # examples whose content vectors are gathered at once


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What the metrics beyond accuracy know of the N items."""

    popularity: Int64  # [N] events in the training log
    content: Float32 | None  # [N, C] attributes as vectors; None where the data have none


def target_ranks(rows: Int32, targets: Int32) -> Int64:
    """Place (from 0) of each target [E] in its list [E, K]; MISSED where it is absent."""
    hits = rows == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), MISSED).astype(np.int64)


def hit_rate(ranks: Int64, k: int) -> Float64:
    """1 where the target is among the first k, [E]."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: Int64, k: int) -> Float64:
    """1 / log2(rank + 2) where the target is among the first k (Järvelin & Kekäläinen 2002), [E]."""
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def reciprocal_rank(ranks: Int64, k: int) -> Float64:
    """1 / (rank + 1) where the target is among the first k, [E]."""
    return np.where(ranks < k, 1.0 / (ranks + 1.0), 0.0)


def auc(scores: Float32, targets: Int32, seen: tuple[Int64, Int64]) -> Float64:
    """Share of the non-seen catalogue that scores below the target, ties counting half, [B].

    `scores` [B, N]; `seen` lists (example, item row) pairs of the histories. The target itself is never counted.
    """
    examples = np.arange(len(scores))
    negatives = np.ones(scores.shape, dtype=np.bool_)
    negatives[seen] = False
    negatives[examples, targets] = False
    of_target = scores[examples, targets][:, None]
    below = ((scores < of_target) & negatives).sum(axis=1)
    ties = ((scores == of_target) & negatives).sum(axis=1)
    counts = negatives.sum(axis=1)
    return np.where(counts > 0, (below + 0.5 * ties) / np.maximum(counts, 1), 0.5)


def novelty(rows: Int32, popularity: Int64) -> Float64:
    """Mean self-information of the listed items in bits, [E] (Zhou et al. 2010).

    An item's probability is its share of the training events, with one event added to each item.
    """
    information = -np.log2((popularity + 1.0) / (popularity.sum() + len(popularity)))
    listed = rows >= 0
    return _mean_over(np.where(listed, information[rows], 0.0), listed)


def serendipity(ranks: Int64, targets: Int32, popular: Int32, k: int) -> Float64:
    """1 where the target is among the first k and not among the popularity baseline's first k `popular` [E, K], [E]."""
    expected = (popular[:, :k] == targets[:, None]).any(axis=1)
    unexpected: Float64 = ((ranks < k) & ~expected).astype(np.float64)
    return unexpected


def diversity(rows: Int32, content: Float32) -> Float64:
    """1 - mean pairwise cosine of the content vectors [N, C] of each list [E, K] (Ziegler et al. 2005), [E].

    A zero vector is orthogonal to all; a list of fewer than two items has no diversity: 0.
    """
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)
    chunks = [_diversity(rows[start : start + CHUNK], unit) for start in range(0, len(rows), CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros(0)


def _diversity(rows: Int32, unit: Float32) -> Float64:
    listed = rows >= 0
    vectors = np.where(listed[:, :, None], unit[rows], 0.0).astype(np.float64)  # [B, K, C]
    norms = (vectors**2).sum(axis=(1, 2))
    cosines = ((vectors.sum(axis=1) ** 2).sum(axis=1) - norms) / 2  # summed over unordered pairs
    size = listed.sum(axis=1)
    pairs = size * (size - 1) / 2
    return np.where(pairs > 0, 1.0 - cosines / np.maximum(pairs, 1), 0.0)


def coverage(rows: Int32, n_items: int) -> float:
    """Share of the catalogue that appears in any of the lists [E, K]."""
    return len(np.unique(rows[rows >= 0])) / n_items


def measure(rows: Int32, targets: Int32, catalogue: Catalogue, popular: Int32) -> PerExample:
    """All per-example metrics of lists [E, K] at each cutoff; `popular` [E, K] are the popularity baseline's lists."""
    ranks = target_ranks(rows, targets)
    values: PerExample = {}
    for k in CUTOFFS:
        values[f"hr@{k}"] = hit_rate(ranks, k)
        values[f"recall@{k}"] = values[f"hr@{k}"]
        values[f"ndcg@{k}"] = ndcg(ranks, k)
        values[f"mrr@{k}"] = reciprocal_rank(ranks, k)
        values[f"novelty@{k}"] = novelty(rows[:, :k], catalogue.popularity)
        values[f"serendipity@{k}"] = serendipity(ranks, targets, popular, k)
        if catalogue.content is not None:
            values[f"diversity@{k}"] = diversity(rows[:, :k], catalogue.content)
    return values


def _mean_over(values: Float64, mask: Bool) -> Float64:
    means: Float64 = values.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    return means
