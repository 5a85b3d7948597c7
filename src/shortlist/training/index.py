"""The FAISS index of the item vectors: exact for small catalogues, an inverted file of 4-bit codes for large ones.

The index only proposes: retrieval scores every proposal again from the item table. So codes may be coarse, if there
are some more proposals than candidates, and what counts is the share of the best items that are among them. How many
cells are searched and how many proposals are made is tuned for that, with the vectors of users as queries: items as
queries find themselves in their own cell, and would promise too much.

Rows of a large catalogue are numbered cell by cell. Whoever writes the bundle puts everything that it keeps of items
into that order: what one request touches then lies close together, and fewer rows have to be fetched from memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from shortlist.devices.lists import take_lists
from shortlist.types import Float32, Int64

FLAT_UP_TO = 50_000  # items; above, FAISS clusters and quantises
RECALL_TARGET = 0.96  # share of the exact nearest neighbours that are to be proposed
QUERIES = 500
CHUNK = 1 << 18  # vectors that are read at once
TRAINED_ON, ROUNDS = 64, 8  # vectors a cell, and rounds, of k-means
RESIDUALS = 1 << 17  # vectors that the 4-bit codes are fitted to
ASSIGNED = 8  # groups of centroids among which a vector's nearest one is looked for
SPARES = (1.2, 1.4, 1.7, 2.0, 2.5, 3.0)  # proposals for each candidate
PROBES = 1.1  # the ratio of one number of cells to the next that is tried
SCANNED, PROPOSED = 2.0, 150.0  # ns: a vector that is looked at, a proposal that is scored again


@dataclass(frozen=True)
class VectorIndex:
    """An index as a bundle keeps it."""

    index: Any  # FAISS's, without the lists
    settings: dict[str, Any]  # for the document `retrieve`: nprobe, spare
    order: Int64  # [N] the vector that each row of the index stands for
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write FAISS's file."""
        faiss.write_index(self.index, str(path))


def build_index(vectors: Float32, depth: int, seed: int, queries: Float32 | None = None) -> VectorIndex:
    """Index `vectors` [N, D], which may be memory-mapped, for inner products.

    `settings` of the result say how many cells to search (None where the index is exact) and how many proposals to make
    for each of `depth`, so that the best `depth` for `queries` [Q, D], by default items, are among them. Rows that it
    proposes are places in its `order`.
    """
    count, dim = vectors.shape
    if count <= FLAT_UP_TO:
        exact: Any = faiss.IndexFlatIP(dim)
        exact.add(np.ascontiguousarray(vectors))
        return VectorIndex(exact, {"nprobe": None, "spare": 1.0}, np.arange(count))
    rng = np.random.default_rng(seed)
    index = _clustered(vectors, cells_for(count), rng)
    if queries is None:
        queries = vectors[np.sort(rng.choice(count, QUERIES, replace=False))]
    nprobe, spare = _tuned(index, np.ascontiguousarray(queries, np.float32), vectors, depth)
    arrays, order = take_lists(index)
    return VectorIndex(index, {"nprobe": nprobe, "spare": spare}, order, arrays)


def cells_for(count: int) -> int:
    """Cells of an inverted file of `count` vectors: a power of two near 4 √count."""
    return int(2 ** round(np.log2(4 * np.sqrt(count))))


def nearest(queries: Float32, vectors: Float32, depth: int) -> Int64:
    """The exact `depth` nearest rows [Q, depth] to `queries` by inner product, chunk by chunk."""
    heap = faiss.ResultHeap(len(queries), depth, keep_max=True)
    for start in range(0, len(vectors), CHUNK):
        chunk = np.ascontiguousarray(vectors[start : start + CHUNK])
        found, rows = faiss.knn(queries, chunk, min(depth, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(found, rows + start)
    heap.finalize()
    nearest_rows: Int64 = heap.I
    return nearest_rows


def _clustered(vectors: Float32, cells: int, rng: np.random.Generator) -> Any:
    """An inverted file whose vectors lie in the cell of the nearest centroid, while queries ask by inner product.

    The inner product would put long vectors into few cells: for the same recall more of them have to be looked at.
    Within a cell the long ones, which most proposals come from, stand first.
    """
    count, dim = vectors.shape
    sample = np.ascontiguousarray(vectors[np.sort(rng.choice(count, min(count, TRAINED_ON * cells), replace=False))])
    centroids = _centroids(sample, cells, int(rng.integers(1 << 30)))
    by_distance, by_product = _nearby(centroids), faiss.IndexFlatIP(dim)
    by_product.add(centroids)
    index = faiss.IndexIVFPQFastScan(by_distance, dim, cells, dim, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = True
    index.train(sample[rng.permutation(len(sample))[:RESIDUALS]])
    longest_first = _by_length(vectors)
    for start in range(0, count, CHUNK):
        rows = longest_first[start : start + CHUNK]
        index.add_with_ids(np.ascontiguousarray(vectors[rows]), rows)
    index.quantizer = by_product
    return index


def _by_length(vectors: Float32) -> Int64:
    """Rows [N], those of the longest vectors first."""
    starts = range(0, len(vectors), CHUNK)
    lengths = np.concatenate([np.linalg.norm(vectors[start : start + CHUNK], axis=1) for start in starts])
    return np.argsort(-lengths, kind="stable")


def _centroids(sample: Float32, cells: int, seed: int) -> Float32:
    """k-means in two levels: √cells groups, each divided into cells by its size.

    As good as one level for this purpose, at 1 / √cells of its cost.
    """
    groups = _k_means(sample, 2 ** (int(np.log2(cells)) // 2), seed)
    nearest_group = faiss.knn(sample, groups, 1)[1][:, 0]
    shares = np.cumsum(np.bincount(nearest_group, minlength=len(groups))) / len(sample)
    parts = np.diff(np.rint(shares * cells).astype(np.int64), prepend=0)
    return np.concatenate([_k_means(sample[nearest_group == g], n, seed) for g, n in enumerate(parts.tolist()) if n])


def _k_means(sample: Float32, count: int, seed: int) -> Float32:
    clustering = faiss.Clustering(sample.shape[1], count)
    clustering.niter, clustering.seed = ROUNDS, seed
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(sample)
    clustering.train(sample, faiss.IndexFlatL2(sample.shape[1]))
    centroids: Float32 = faiss.vector_to_array(clustering.centroids).reshape(count, -1)
    return centroids


def _nearby(centroids: Float32) -> Any:
    """Finds the nearest of many centroids among those of a few groups."""
    dim, groups = centroids.shape[1], 2 ** (int(np.log2(len(centroids))) // 2)
    coarse = faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFFlat(coarse, dim, groups, faiss.METRIC_L2)
    index.cp.min_points_per_centroid = 1
    index.train(centroids)
    index.add(centroids)
    index.nprobe = ASSIGNED
    index.make_direct_map()
    return index


def _tuned(index: Any, queries: Float32, vectors: Float32, depth: int) -> tuple[int, float]:
    """How many cells to search and proposals to make, for RECALL_TARGET at the least cost."""
    wanted = nearest(queries, vectors, depth)
    most = min(int(max(SPARES) * depth), len(vectors))
    per_cell = SCANNED * len(vectors) / index.nlist
    nprobe, best, cost = max(1, index.nlist >> 8), (int(index.nlist), max(SPARES)), np.inf
    while nprobe < index.nlist and nprobe * per_cell + min(SPARES) * depth * PROPOSED < cost:
        index.nprobe = nprobe
        _, found = index.search(queries, most)
        places = _places(wanted, found)
        enough = (s for s in SPARES if (places < s * depth).mean() >= RECALL_TARGET)
        spare = next(enough, np.inf)
        if nprobe * per_cell + spare * depth * PROPOSED < cost:
            best, cost = (nprobe, spare), nprobe * per_cell + spare * depth * PROPOSED
        nprobe = max(nprobe + 1, int(nprobe * PROBES))
    index.nprobe = best[0]
    return best


def _places(wanted: Int64, found: Int64) -> Int64:
    """Where each of `wanted` [Q, K] stands among `found` [Q, M] of the same query; M where it is not."""
    places = np.full(wanted.shape, found.shape[1])
    for own, rows, places_of in zip(wanted, found, places, strict=True):
        order = np.argsort(rows)
        slots = np.minimum(np.searchsorted(rows, own, sorter=order), len(rows) - 1)
        hit = rows[order[slots]] == own
        places_of[hit] = order[slots][hit]
    return places
