"""The FAISS index of the item vectors: exact for small catalogues, clustered and 8-bit for large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from shortlist.types import Float32

FLAT_UP_TO = 50_000  # items; above, FAISS clusters and quantises
RECALL_TARGET = 0.97  # share of the exact nearest neighbours that `nprobe` is raised to find
QUERIES = 200


def write_index(path: Path, vectors: Float32, depth: int, seed: int) -> int | None:
    """Index `vectors` [N, D] for inner products and write the index to `path`.

    Returns the number of clusters to probe so that the best `depth` are found, None where the index is exact.
    """
    count, dim = vectors.shape
    if count <= FLAT_UP_TO:
        index: Any = faiss.IndexFlatIP(dim)
        index.add(vectors)
        faiss.write_index(index, str(path))
        return None
    clusters = 2 ** round(np.log2(4 * np.sqrt(count)))
    index = faiss.index_factory(dim, f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(seed)
    index.train(vectors[rng.choice(count, min(count, 64 * clusters), replace=False)])
    index.add(vectors)
    nprobe = _tune_nprobe(index, vectors, depth, rng)
    faiss.write_index(index, str(path))
    return nprobe


def _tune_nprobe(index: Any, vectors: Float32, depth: int, rng: np.random.Generator) -> int:
    """The smallest power of two that reaches RECALL_TARGET, with items as queries."""
    queries = vectors[rng.choice(len(vectors), QUERIES, replace=False)]
    exact: Any = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    _, wanted = exact.search(queries, depth)
    nprobe = 1
    while nprobe < index.nlist:
        index.nprobe = nprobe
        _, found = index.search(queries, depth)
        if np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]) >= RECALL_TARGET:
            break
        nprobe *= 2
    return nprobe
