"""FAISS on the GPU: the kind of index by the catalogue's size, built from the vectors when an instance starts.

One StandardGpuResources per instance, with bounded temporary memory, since FAISS is not thread-safe on GPUs even for
readers. On one GPU, vectors and rows stay in its memory; over several, FAISS itself merges on the host. Ran with CPU
indexes behind FAISS's names for the GPU; on a real GPU it has not run yet.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shortlist.types import Float32

CHUNK = 1 << 20  # vectors that are added at once
TRAINED_ON = 256  # vectors a cell
PROBED = 64  # one cell in so many is searched where the bundle does not say how many


@dataclass(frozen=True)
class Placement:
    """Where the index lies, and what it may take."""

    gpus: tuple[int, ...] = (0,)  # the first also runs everything else
    spread: Literal["shards", "replicas"] = "shards"  # over several GPUs: parts of the catalogue, or copies of it
    temporary_bytes: int = 256 << 20  # of each GPU; FAISS would take 1.5 GB
    kind: str | None = None  # flat, sq8, pq or cagra; None chooses by size


class GpuIndex:
    """An inner-product index on one or more GPUs."""

    def __init__(
        self, vectors: Float32, cupy: Any, stream: Any, nprobe: int | None = None, placement: Placement | None = None
    ) -> None:
        """Build over `vectors` [N, D]. Raises ValueError for a kind that the installed FAISS has not."""
        self._faiss, self._cupy = importlib.import_module("faiss"), cupy
        self._placement = placement or Placement()
        self.kind = self._placement.kind or kind_for(len(vectors))
        self._resources = [self._new_resources(stream) for _ in self._placement.gpus]
        self._index = self._built(vectors, nprobe)

    def search(self, vectors: Any, k: int) -> Any:
        """Rows Int64 [B, k] nearest to CuPy's `vectors` [B, D], -1 where there are fewer; k is at most 2,048."""
        vectors = self._cupy.ascontiguousarray(vectors, dtype=np.float32)
        if len(self._placement.gpus) > 1:
            return self._cupy.asarray(self._index.search(vectors.get(), k)[1])
        scores = self._cupy.empty((len(vectors), k), np.float32)
        rows = self._cupy.empty((len(vectors), k), np.int64)
        floats, integers = self._faiss.cast_integer_to_float_ptr, self._faiss.cast_integer_to_idx_t_ptr
        pointers = floats(vectors.data.ptr), k, floats(scores.data.ptr), integers(rows.data.ptr)
        self._index.search_c(len(vectors), *pointers)  # SWIG's own search: Python's wrapper takes NumPy arrays only
        return rows

    def _new_resources(self, stream: Any) -> Any:
        resources = self._faiss.StandardGpuResources()
        resources.setTempMemory(self._placement.temporary_bytes)
        if len(self._placement.gpus) == 1:
            resources.setDefaultStream(self._placement.gpus[0], stream.ptr)
        return resources

    def _built(self, vectors: Float32, nprobe: int | None) -> Any:
        index = self._cagra(vectors.shape[1]) if self.kind == "cagra" else self._placed(vectors)
        if self.kind == "cagra":
            index.train(np.ascontiguousarray(vectors))  # builds the graph over all of them
            return index
        if self.kind != "flat":
            rng = np.random.default_rng(0)
            count = min(len(vectors), TRAINED_ON * cells_for(len(vectors)))
            index.train(np.ascontiguousarray(vectors[np.sort(rng.choice(len(vectors), count, replace=False))]))
            searched = nprobe or max(1, cells_for(len(vectors)) // PROBED)
            self._faiss.GpuParameterSpace().set_index_parameter(index, "nprobe", searched)
        for start in range(0, len(vectors), CHUNK):
            index.add(np.ascontiguousarray(vectors[start : start + CHUNK]))
        return index

    def _placed(self, vectors: Float32) -> Any:
        """An empty index on the GPUs."""
        faiss, gpus = self._faiss, self._placement.gpus
        cells = cells_for(len(vectors))
        spec = {"flat": "Flat", "sq8": f"IVF{cells},SQ8", "pq": f"IVF{cells},PQ{vectors.shape[1] // 4}np"}[self.kind]
        empty = faiss.index_factory(vectors.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        if len(gpus) == 1:
            options = faiss.GpuClonerOptions()
            options.useFloat16 = True
            return faiss.index_cpu_to_gpu(self._resources[0], gpus[0], empty, options)
        options = faiss.GpuMultipleClonerOptions()
        options.useFloat16, options.shard = True, self._placement.spread == "shards"
        return faiss.index_cpu_to_gpu_multiple_py(self._resources, empty, options, list(gpus))

    def _cagra(self, dim: int) -> Any:
        if not hasattr(self._faiss, "GpuIndexCagra"):
            raise ValueError("kind = 'cagra': the installed FAISS was built without cuVS; install faiss-gpu-cuvs")
        return self._faiss.GpuIndexCagra(self._resources[0], dim, self._faiss.METRIC_INNER_PRODUCT)


def kind_for(count: int) -> str:
    """The kind of index for `count` vectors: exact while its memory and time are small, then coarser."""
    return "flat" if count <= 2_000_000 else "sq8" if count <= 50_000_000 else "pq"


def cells_for(count: int) -> int:
    """Cells of an inverted file over `count` vectors: a power of two near 4 · √count."""
    return int(1 << max(0, round(math.log2(4 * math.sqrt(count)))))
