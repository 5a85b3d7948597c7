"""The CPU: NumPy, ONNX Runtime with one thread and no spinning, FAISS. Nothing is copied; tables stay memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as refusals

from shortlist.bundle import Bundle
from shortlist.devices.cells import Cells
from shortlist.devices.lists import LISTS, map_lists
from shortlist.errors import BundleError
from shortlist.kernels import dpp, fuse_features, mmr
from shortlist.types import Eligible

REFUSALS = (
    RuntimeError,
    ValueError,
    refusals.Fail,
    refusals.InvalidArgument,
    refusals.InvalidGraph,
    refusals.InvalidProtobuf,
    refusals.NotImplemented,
)


class Cpu:
    """The CPU as a Device."""

    name = "cpu"
    xp: Any = np
    fuse_features, mmr, dpp = staticmethod(fuse_features), staticmethod(mmr), staticmethod(dpp)
    now = staticmethod(perf_counter)

    def __init__(self, note: str = "") -> None:
        self.note = note

    def keep(self, array: Any) -> Any:
        """`array` itself, memory-mapped as it is."""
        return array

    def renew(self, kept: Any, array: Any, rows: slice) -> None:
        """Nothing: `kept` is `array`."""

    def put(self, *arrays: Any) -> tuple[Any, ...]:
        """The arrays themselves."""
        return arrays

    def fetch(self, *arrays: Any) -> tuple[Any, ...]:
        """The arrays themselves."""
        return arrays

    def scorer(self, bundle: Bundle, graph: str) -> Session:
        """The graph on ONNX Runtime."""
        return Session(open_session(bundle.graph(graph)))

    def index(self, bundle: Bundle, nprobe: int | None) -> FaissIndex:
        """The bundle's own index, memory-mapped."""
        return FaissIndex(read_index(bundle, nprobe))

    def seconds(self, start: float, end: float) -> float:
        """The difference."""
        return end - start

    def warm_up(self) -> None:
        """Nothing: the stages compile their own."""


class Session:
    """An ONNX Runtime session as a Scorer."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._run = session.run

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The first output of the graph."""
        return self._run(None, inputs)[0]

    def dtype(self, name: str) -> str | None:
        """None: the bundle's graphs are made for ONNX Runtime."""
        return None


class FaissIndex:
    """A FAISS index of the CPU."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._cells = Cells(index) if isinstance(index, faiss.IndexIVF) else None

    def search(self, vectors: Any, k: int, *, nprobe: int | None = None, eligible: Eligible | None = None) -> Any:
        """Rows Int64 [B, k]."""
        if eligible is not None and self._cells:
            return self._cells.search(vectors, k, eligible, nprobe)
        if nprobe is None or not self._cells:
            return self._index.search(vectors, k)[1]
        options: Any = faiss.SearchParametersIVF()
        options.nprobe = nprobe
        return self._index.search(vectors, k, params=options)[1]

    def prepare(self, eligible: Eligible) -> bool:
        """True where the index has cells, and searching them costs less than scoring every eligible row."""
        return self._cells is not None and self._cells.prepare(eligible)


def open_session(graph: Path) -> ort.InferenceSession:
    """A CPU session for `graph`. Raises BundleError when ONNX Runtime refuses the file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except REFUSALS as error:
        raise BundleError(f"{graph}: ONNX Runtime cannot load it: {error}") from error


def read_index(bundle: Bundle, nprobe: int | None) -> Any:
    """The bundle's FAISS index, memory-mapped, set to search `nprobe` cells where it has cells."""
    index = faiss.read_index(str(bundle.file("index.faiss")), faiss.IO_FLAG_MMAP)
    if bundle.has(f"{LISTS}.npy"):
        map_lists(index, bundle)
    if nprobe:
        faiss.extract_index_ivf(index).nprobe = nprobe
    return index
