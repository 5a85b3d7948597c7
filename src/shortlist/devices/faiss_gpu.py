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

from shortlist.errors import ConfigError
from shortlist.types import Eligible, Float32

KINDS = ("auto", "flat", "ivf_sq8", "ivf_pq", "cagra")
TEMP_MEMORY_MIB = 256  # FAISS would take 1.5 GB
CHUNK = 1 << 20  # vectors that are added at once
TRAINED_ON = 256  # vectors a cell
PROBED = 64  # one cell in so many is searched where the bundle does not say how many
MOST_PROBED = 2048  # cells that FAISS searches on a GPU
CODE_SIZES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)  # bytes of a PQ code that FAISS has on a GPU
LEAST_KEPT, KEPT_STEP = 64, 32  # of CAGRA's list of the best so far, which must hold all that are asked for


@dataclass(frozen=True)
class Placement:
    """Where the index lies, of which kind it is, and what it may take. Raises ConfigError for what there is not."""

    gpus: tuple[int, ...] = (0,)  # the first also runs everything else
    spread: Literal["shards", "replicas"] = "shards"  # over several GPUs: parts of the catalogue, or copies of it
    kind: str = "auto"  # one of KINDS; auto chooses by the catalogue's size
    temp_memory_mib: int = TEMP_MEMORY_MIB  # of each GPU, for searching

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"gpu_index = {self.kind!r}: {', '.join(KINDS)} is allowed")
        if self.kind == "cagra" and len(self.gpus) > 1:
            raise ConfigError(
                f"gpu_index = 'cagra': lies on one GPU, and this one is spread over {len(self.gpus)}; choose flat, "
                "ivf_sq8 or ivf_pq, or give each GPU an instance with an index of its own"
            )
        if self.temp_memory_mib < 1:
            raise ConfigError(f"gpu_temp_memory = {self.temp_memory_mib}: at least 1 (MiB) is allowed")

    @property
    def temporary_bytes(self) -> int:
        """The temporary memory in bytes."""
        return self.temp_memory_mib << 20

    def kind_for(self, count: int) -> str:
        """The kind of an index of `count` vectors."""
        return kind_for(count) if self.kind == "auto" else self.kind


class GpuIndex:
    """An inner-product index on one or more GPUs."""

    def __init__(
        self, vectors: Float32, cupy: Any, stream: Any, nprobe: int | None = None, placement: Placement | None = None
    ) -> None:
        """Build over `vectors` [N, D]. Raises ConfigError for a kind that the installed FAISS has not."""
        self._faiss, self._cupy = importlib.import_module("faiss"), cupy
        self._placement = placement or Placement()
        self.kind = self._placement.kind_for(len(vectors))
        self._cells = cells_for(len(vectors))
        self._resources = [self._new_resources(stream) for _ in self._placement.gpus]
        self._index = self._cagra(vectors) if self.kind == "cagra" else self._filled(vectors, nprobe)

    def search(self, vectors: Any, k: int, *, nprobe: int | None = None, eligible: Eligible | None = None) -> Any:
        """Rows Int64 [B, k] nearest to CuPy's `vectors` [B, D], -1 where there are fewer; k is at most 2,048.

        `nprobe` cells are searched instead of the index's own number. Not among `eligible` rows: see `prepare`.
        """
        assert eligible is None, "prepare() says False"
        vectors = self._cupy.ascontiguousarray(vectors, dtype=np.float32)
        parameters = self._parameters(k, nprobe)
        if len(self._placement.gpus) > 1:
            return self._cupy.asarray(self._index.search(vectors.get(), k, params=parameters)[1])
        scores = self._cupy.empty((len(vectors), k), np.float32)
        rows = self._cupy.empty((len(vectors), k), np.int64)
        floats, integers = self._faiss.cast_integer_to_float_ptr, self._faiss.cast_integer_to_idx_t_ptr
        pointers = floats(vectors.data.ptr), k, floats(scores.data.ptr), integers(rows.data.ptr)
        self._index.search_c(len(vectors), *pointers, parameters)  # SWIG's: Python's wrapper takes NumPy arrays only
        return rows

    def prepare(self, eligible: Eligible) -> bool:
        """False: FAISS's indexes on a GPU pass over no rows; see `shortlist.stages.allowed`."""
        return False

    def _parameters(self, k: int, nprobe: int | None) -> Any:
        """What this search is told beside k, if anything."""
        if self.kind == "cagra":
            parameters = self._faiss.SearchParametersCagra()
            parameters.itopk_size = max(LEAST_KEPT, -(-k // KEPT_STEP) * KEPT_STEP)
            return parameters
        if self.kind == "flat" or nprobe is None:
            return None
        return self._faiss.SearchParametersIVF(nprobe=min(nprobe, self._cells, MOST_PROBED))

    def _new_resources(self, stream: Any) -> Any:
        """FAISS's memory and streams; on one GPU its work is ordered with ours, since it uses our stream."""
        resources = self._faiss.StandardGpuResources()
        resources.setTempMemory(self._placement.temporary_bytes)
        resources.setPinnedMemory(0)  # it would pin 256 MB of the host, for batches of users that large
        if len(self._placement.gpus) == 1:
            resources.setDefaultStream(
                self._placement.gpus[0], self._faiss.cast_integer_to_cudastream_t(int(stream.ptr))
            )
        return resources

    def _filled(self, vectors: Float32, nprobe: int | None) -> Any:
        """An index on the GPUs, trained where it has cells, with all vectors."""
        index, cells = self._empty(vectors.shape[1]), self._cells
        if self.kind != "flat":
            rng = np.random.default_rng(0)
            count = min(len(vectors), TRAINED_ON * cells)
            index.train(np.ascontiguousarray(vectors[np.sort(rng.choice(len(vectors), count, replace=False))]))
            searched = min(nprobe or max(1, cells // PROBED), cells, MOST_PROBED)
            self._faiss.GpuParameterSpace().set_index_parameter(index, "nprobe", searched)
        # flat shards number their vectors by themselves, and so take them all at once
        step = max(1, len(vectors)) if self.kind == "flat" and len(self._placement.gpus) > 1 else CHUNK
        for start in range(0, len(vectors), step):
            index.add(np.ascontiguousarray(vectors[start : start + step]))
        return index

    def _empty(self, dim: int) -> Any:
        """An empty index on the GPUs."""
        faiss, gpus = self._faiss, self._placement.gpus
        codes = {"flat": "Flat", "ivf_sq8": "SQ8", "ivf_pq": f"PQ{code_size(dim)}np"}[self.kind]
        spec = codes if self.kind == "flat" else f"IVF{self._cells},{codes}"
        empty = faiss.index_factory(dim, spec, faiss.METRIC_INNER_PRODUCT)
        if len(gpus) == 1:
            options = faiss.GpuClonerOptions()
            options.useFloat16 = True
            return faiss.index_cpu_to_gpu(self._resources[0], gpus[0], empty, options)
        options = faiss.GpuMultipleClonerOptions()
        options.useFloat16, options.shard = True, self._placement.spread == "shards"
        return faiss.index_cpu_to_gpu_multiple_py(self._resources, empty, options, list(gpus))

    def _cagra(self, vectors: Float32) -> Any:
        """CAGRA's graph over the vectors, which it copies to the GPU in float32."""
        faiss = self._faiss
        if not hasattr(faiss, "GpuIndexCagra"):
            raise ConfigError(
                "gpu_index = 'cagra': the installed FAISS was built without cuVS; install faiss-gpu-cuvs, or choose "
                "flat, ivf_sq8 or ivf_pq"
            )
        config = faiss.GpuIndexCagraConfig()
        config.device = self._placement.gpus[0]
        index = faiss.GpuIndexCagra(self._resources[0], vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
        index.train(np.ascontiguousarray(vectors))
        return index


def kind_for(count: int) -> str:
    """The kind of index for `count` vectors: exact while its memory and time are small, then coarser."""
    return "flat" if count <= 2_000_000 else "ivf_sq8" if count <= 50_000_000 else "ivf_pq"


def cells_for(count: int) -> int:
    """Cells of an inverted file over `count` vectors: a power of two near 4 · √count."""
    return int(1 << max(0, round(math.log2(4 * math.sqrt(count)))))


def code_size(dim: int) -> int:
    """Bytes of a vector's PQ code: about one for four columns, of the sizes that FAISS has on a GPU and that fit."""
    return max(size for size in CODE_SIZES if dim % size == 0 and size <= max(1, dim // 4))
