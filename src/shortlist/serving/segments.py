"""People of like taste: K-means on user vectors, the number of segments chosen by silhouette, and a list for each.

Half of a sample places the centroids, the other half judges them, so that more segments do not look better by chance.
Which list a person gets is decided by their vector of the moment (`shortlist.stages.segments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shortlist.cascade import Cascade
from shortlist.types import Float32, Int32, Int64, Request

COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
SAMPLE, JUDGED = 20_000, 2_000  # people who place centroids, at most; people whose silhouette is computed
LISTED = 200  # items of a segment's list: enough when those that somebody has seen are left out
BATCH = 256


@dataclass(frozen=True, eq=False)
class Segments:
    """K segments and their lists."""

    centroids: Float32  # [K, D]
    rows: Int32  # [K, T] catalogue rows, best first
    silhouettes: dict[int, float]  # of each number of segments that was tried, on people who placed no centroid


def find_segments(cascade: Cascade, counts: Sequence[int] = COUNTS, seed: int = 0) -> Segments | None:
    """Segments of the people whom the bundle knows; None where there are too few of them to tell."""
    vectors = unit(user_vectors(cascade, SAMPLE, seed))
    half = len(vectors) // 2
    placing, judged = vectors[:half], vectors[half:][:JUDGED]
    silhouettes = {
        count: silhouette(judged, nearest(judged, centroids(placing, count, seed)))
        for count in counts
        if 2 * count <= half
    }
    if not silhouettes:
        return None
    best = max(silhouettes, key=lambda count: silhouettes[count])
    found = centroids(vectors, best, seed)
    return Segments(found, lists(found, cascade.retrieve.vectors), silhouettes)


def user_vectors(cascade: Cascade, most: int, seed: int) -> Float32:
    """Vectors [U, D] of at most `most` people with a history, drawn at random, in no context."""
    stored = cascade.users.profiles
    known = np.flatnonzero(np.diff(stored.offsets))
    chosen = np.random.default_rng(seed).permutation(known)[:most].tolist()
    requests = [Request(user_id=stored.ids.id(user)) for user in chosen]
    parts = [cascade.users.read(requests[i : i + BATCH]).vectors for i in range(0, len(requests), BATCH)]
    return np.concatenate(parts) if parts else np.empty((0, cascade.retrieve.vectors.shape[1]), np.float32)


def centroids(vectors: Float32, count: int, seed: int) -> Float32:
    """Spherical K-means: unit centroids [count, D] of unit vectors [U, D]."""
    import faiss

    settings = {"spherical": True, "seed": seed, "niter": 25, "nredo": 3, "min_points_per_centroid": 1}
    clustering = faiss.Kmeans(vectors.shape[1], count, **settings)
    clustering.train(np.ascontiguousarray(vectors))
    return np.asarray(clustering.centroids, np.float32)


def nearest(vectors: Float32, found: Float32) -> Int64:
    """The centroid of each unit vector, [U]."""
    return np.asarray((vectors @ found.T).argmax(axis=1), np.int64)


def silhouette(vectors: Float32, assigned: Int64) -> float:
    """Mean silhouette (Rousseeuw 1987) of points [U, D] in their clusters [U], by Euclidean distance.

    A point that is alone in its cluster counts 0.
    """
    squares = (vectors**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0)).astype(np.float64)
    np.fill_diagonal(distances, 0)
    member = np.eye(int(assigned.max(initial=0)) + 1)[assigned]  # [U, K]
    sizes, everyone = member.sum(axis=0), np.arange(len(assigned))
    sums = distances @ member
    own = sums[everyone, assigned] / np.maximum(sizes[assigned] - 1, 1)
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    means[everyone, assigned] = np.inf
    other = means.min(axis=1)
    if not np.isfinite(other).all():  # one cluster alone
        return 0.0
    return float(np.where(sizes[assigned] > 1, (other - own) / np.maximum(np.maximum(own, other), 1e-12), 0).mean())


def lists(found: Float32, items: Float32, length: int = LISTED) -> Int32:
    """The best rows [K, T] of `items` [N, D] for each centroid [K, D], best first."""
    import faiss

    items = np.ascontiguousarray(items, np.float32)
    _, rows = faiss.knn(found, items, min(length, len(items)), metric=faiss.METRIC_INNER_PRODUCT)
    return np.asarray(rows, np.int32)


def unit(vectors: Float32) -> Float32:
    """Vectors [U, D] of length 1; zeros stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
