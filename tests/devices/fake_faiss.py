"""FAISS's names for the GPU, with its indexes for the CPU behind them.

As strict as FAISS is there: the cells to search have a limit, codes have certain sizes, resources want a stream of
their own type, several GPUs are FAISS's own shards and replicas, and CAGRA finds no more than it keeps in its list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from shortlist.devices.faiss_gpu import CODE_SIZES

MOST = 2048  # cells to search


@dataclass(frozen=True)
class CudaStream:
    """SWIG's cudaStream_t."""

    ptr: int


class Resources:
    """FAISS's StandardGpuResources."""

    made: list[Resources]

    def __init__(self) -> None:
        self.temporary, self.pinned = 1536 << 20, 256 << 20
        self.streams: dict[int, int] = {}
        type(self).made.append(self)

    def setTempMemory(self, size: int) -> None:  # noqa: N802
        self.temporary = size

    def setPinnedMemory(self, size: int) -> None:  # noqa: N802
        self.pinned = size

    def setDefaultStream(self, device: int, stream: CudaStream) -> None:  # noqa: N802
        if not isinstance(stream, CudaStream):
            raise TypeError("in method 'StandardGpuResources_setDefaultStream', argument 3 of type 'cudaStream_t'")
        self.streams[device] = stream.ptr


class ParameterSpace(faiss.ParameterSpace):  # type: ignore[misc]
    """FAISS's GpuParameterSpace."""

    def set_index_parameter(self, index: Any, name: str, value: float) -> None:
        if name == "nprobe" and value > MOST:
            raise RuntimeError(f"GPU IVF index only supports nprobe selection up to {MOST} (requested {value})")
        super().set_index_parameter(index, name, value)


def install(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    """Give faiss what it has in a build for GPUs, of which there are `gpus`, until the test ends."""
    options = type("Options", (SimpleNamespace,), {})
    fakes = {
        "StandardGpuResources": type("StandardGpuResources", (Resources,), {"made": []}),
        "get_num_gpus": lambda: gpus,
        "cast_integer_to_cudastream_t": CudaStream,
        "GpuClonerOptions": options,
        "GpuMultipleClonerOptions": options,
        "GpuParameterSpace": ParameterSpace,
        "index_cpu_to_gpu": lambda resources, device, index, options: _clone(index),
        "index_cpu_to_gpu_multiple_py": _clone_to_several,
    }
    for name, value in fakes.items():
        monkeypatch.setattr(faiss, name, value, raising=False)


def add_cuvs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give faiss what a build with cuVS has besides; its graph is exact here."""

    class Graph(faiss.IndexFlatIP):  # type: ignore[misc]
        def __init__(self, resources: object, dim: int, metric: int, config: Any) -> None:
            assert config.device == 1, "not the GPU that was asked for"
            super().__init__(dim)

        def train(self, data: np.ndarray) -> None:
            self.add(data)

        def search_c(self, count: int, x: Any, k: int, scores: Any, rows: Any, parameters: Any = None) -> None:
            kept = 64 if parameters is None else parameters.itopk_size
            if k > kept:
                raise RuntimeError(f"topk = {k} must be smaller than itopk_size = {kept}")
            super().search_c(count, x, k, scores, rows)

    fakes = {
        "GpuIndexCagra": Graph,
        "GpuIndexCagraConfig": lambda: SimpleNamespace(device=0),
        "SearchParametersCagra": lambda: SimpleNamespace(itopk_size=64),
    }
    for name, value in fakes.items():
        monkeypatch.setattr(faiss, name, value, raising=False)


def _clone(index: Any) -> Any:
    """A copy, if a GPU can hold an index of this kind."""
    ivf = faiss.try_extract_index_ivf(index)
    if isinstance(ivf, faiss.IndexIVFPQ) and ivf.pq.M not in CODE_SIZES:
        raise RuntimeError(f"Number of bytes per encoded vector / sub-quantizers ({ivf.pq.M}) is not supported")
    return faiss.clone_index(index)


def _clone_to_several(resources: Sequence[Resources], index: Any, options: Any, gpus: Sequence[int]) -> Any:
    several = (
        faiss.IndexShards(index.d, True, isinstance(index, faiss.IndexFlat))
        if options.shard
        else faiss.IndexReplicas(index.d)
    )
    parts = [_clone(index) for _ in gpus]
    several.referenced_objects = list(parts)  # else Python would free them
    for part in parts:
        several.addIndex(part)
    return several
