"""A GPU machine on the CPU: CuPy, TensorRT and FAISS-GPU under their own names, and plans to run on it.

    machine = install(monkeypatch)      # choose_device("gpu", engines) works now
    write_plans(bundle, engines, …)     # the bundle's own graphs as plans, or other ones

Kernels run as `kernels` says: "emulated" executes the CUDA sources (tests/kernels/cuda), "cpu" the CPU's kernels in
their place, which other tests prove equal bit by bit, and which makes hundreds of users affordable. Plans are
executed by ONNX Runtime, indexes are FAISS's of the CPU. Stricter than CuPy: no operation takes a host array.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from shortlist.bundle import Bundle
from shortlist.config import CascadeConfig
from shortlist.export.engines import make_recipe, write_plan
from shortlist.export.samples import graph_buckets
from shortlist.export.tensorrt import Backend, Built
from shortlist.kernels import dpp, mmr, top_k
from shortlist.kernels.fuse_features.cpu import fuse_features as fuse_on_cpu
from shortlist.kernels.score_pool.reference import score_pool_reference
from tests.devices import fake_faiss
from tests.devices.fake_tensorrt import VERSION, TensorRT
from tests.kernels.cuda import fake_cupy

top_k_gpu = import_module("shortlist.kernels.top_k.gpu")  # the package shows the function under the name of the module

SM, ALIGNMENT = 90, 512
NAMED_LIKE_NUMPYS = ("arange", "broadcast_to", "concatenate", "isfinite", "maximum", "minimum", "searchsorted", "stack")
FUNCTIONS = (*NAMED_LIKE_NUMPYS, "take_along_axis", "where")


@dataclass
class Counts:
    """What crossed between host and GPU."""

    copies_in: int = 0
    copies_out: int = 0
    waits: int = 0


class ndarray(fake_cupy.ndarray):  # noqa: N801 - CuPy's name
    """An array of the GPU, which NumPy's arrays cannot be combined with."""

    fake: Machine

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        _refuse_host_arrays(ufunc.__name__, inputs)
        plain = [i.view(np.ndarray) if isinstance(i, ndarray) else i for i in inputs]
        out = options.pop("out", None)
        if out is not None:
            options["out"] = tuple(o.view(np.ndarray) for o in out)
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out is not None else np.asarray(result).view(type(self))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is not np.copyto:  # the emulator's own
            _refuse_host_arrays(function.__name__, arguments)
        result = super().__array_function__(function, types, arguments, options)
        return result.view(type(self)) if isinstance(result, np.ndarray) else result

    def __setitem__(self, place: Any, value: Any) -> None:
        _refuse_host_arrays("an assignment", (value,))
        self._count_mask(place)
        super().__setitem__(place, value)

    def __getitem__(self, place: Any) -> Any:
        self._count_mask(place)
        return super().__getitem__(place)

    def _count_mask(self, place: Any) -> None:
        """CuPy asks the GPU how many elements a mask has, and waits for the answer."""
        parts = place if type(place) is tuple else (place,)
        if any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
            self.fake.counts.waits += 1

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        self.fake.counts.copies_in += 1
        self.view(np.ndarray)[...] = array

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> np.ndarray:
        self.fake.counts.copies_out += 1
        self.fake.counts.waits += blocking
        if out is None:
            return np.array(self)
        out[:] = self.view(np.ndarray)
        return out


ndarray.__module__ = "cupy"


class Event:
    """CUDA's event: the stream comes to it late, as far as its work is behind, and nobody knows before a wait."""

    def __init__(self, fake: Machine) -> None:
        self.fake, self.at, self.done = fake, 0.0, False

    def record(self, stream: Stream) -> None:
        self.at = perf_counter() + self.fake.behind
        stream.events.append(self)


def get_elapsed_time(start: Event, end: Event) -> float:
    if not (start.done and end.done):
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end.at - start.at)


@dataclass
class Stream:
    """CUDA's stream: everything is done at once, except while it captures."""

    fake: Machine
    ptr: int = 7
    recorded: list[Callable[[], None]] | None = None
    gpu: int = 0
    is_spoiled: bool = False  # by something that cannot be captured
    events: list[Event] = field(default_factory=list)  # that nobody knows it has come to

    def use(self) -> Stream:
        assert self.fake.current == self.gpu, "a stream of another GPU"
        return self

    def synchronize(self) -> None:
        assert self.recorded is None, "waiting while capturing"
        self.fake.counts.waits += 1
        for event in self.events:
            event.done = True
        self.events.clear()

    def begin_capture(self) -> None:
        self.recorded = []

    def end_capture(self) -> Any:
        recorded, self.recorded = self.recorded, None
        assert recorded is not None
        if self.is_spoiled:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return SimpleNamespace(launch=lambda stream: [run() for run in recorded])


class Machine(fake_cupy.FakeCupy):
    """The module `cupy` of a machine with one GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.available = Counts(), True
        self.ndarray = type("ndarray", (ndarray,), {"fake": self, "__module__": "cupy"})
        self.streams: list[Stream] = []
        self.cuda.is_available = lambda: self.available
        self.current = 0  # the GPU that this thread uses
        self.cuda.Device = self._device
        self.cuda.Stream = self._stream
        self.cuda.alloc_pinned_memory = bytearray
        self.behind = 0.0  # seconds of work that the GPU has not done when it is launched
        self.cuda.Event, self.cuda.get_elapsed_time = lambda: Event(self), get_elapsed_time
        self.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        for name in FUNCTIONS:
            setattr(self, name, self._wrapped(getattr(np, name)))

    def empty(self, shape: Any, dtype: Any = np.float64) -> Any:
        assert all(stream.recorded is None for stream in self.streams), "allocating while capturing"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = super().empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape)

    def _device(self, number: int = 0) -> Any:
        return SimpleNamespace(compute_capability=str(SM), use=lambda: setattr(self, "current", number))

    def _stream(self, non_blocking: bool = False) -> Stream:
        assert non_blocking, "the default stream cannot be captured"
        self.streams.append(Stream(self, gpu=self.current))
        return self.streams[-1]

    def _wrapped(self, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            given = arguments[0] if isinstance(arguments[0], list | tuple) else arguments
            _refuse_host_arrays(function.__name__, given)
            return np.asarray(function(*arguments, **options)).view(self.ndarray)

        return call


def install(monkeypatch: pytest.MonkeyPatch, kernels: str = "cpu", gpus: int = 1) -> Machine:
    """Make this a machine with `gpus` GPUs until the test ends."""
    machine = Machine()
    monkeypatch.setitem(sys.modules, "cupy", machine)
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(machine.streams))
    monkeypatch.setattr("shortlist.kernels.gpu._KERNELS", {})
    monkeypatch.setattr("shortlist.kernels.gpu.machine_code", fake_cupy.machine_code)
    if kernels == "cpu":
        _use_cpu(monkeypatch, machine)
    fake_faiss.install(monkeypatch, gpus)
    return machine


def write_plans(bundle: Bundle, engines: Path, graphs: Mapping[str, bytes] | None = None, **recipe: Any) -> Path:
    """What a GPU repository holds: plans of `graphs` (the bundle's own unless given) with their manifests."""
    engines.mkdir(parents=True)
    buckets = graph_buckets(CascadeConfig.model_validate(bundle.metadata["cascade"]))
    backend = Backend("tensorrt", recipe.get("version", VERSION), None)
    for name, profiles in buckets.items():
        graph = graphs[name] if graphs else _named_axes(bundle.graph(name).read_bytes())
        made = make_recipe(name, "fp32", graph, profiles, recipe.get("sm", SM), backend)
        plan = json.dumps({"graph": base64.b64encode(graph).decode(), "profiles": made.profiles}).encode()
        (engines / f"{name}.onnx").write_bytes(graph)
        write_plan(engines / f"{name}.plan", made, Built(plan, (), 0.0, b""))
    return engines


def _named_axes(graph: bytes) -> bytes:
    """`graph` with its axes called as the profiles call them; those of tests/factories.py have short names."""
    model, names = onnx.load_from_string(graph), {"B": "batch", "L": "history", "N": "candidates", "M": "pairs"}
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = names.get(size.dim_param, size.dim_param)
    return bytes(model.SerializeToString())


def _use_cpu(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """The kernels of the CPU in place of the CUDA sources; arguments are those of the GPU's wrappers."""

    def host(*arrays: Any) -> list[Any]:
        return [None if a is None else np.ascontiguousarray(a.view(np.ndarray)) for a in arrays]

    def fuse(items: Any, rows: Any, users: Any, channels: Any, side: Any, columns: Any, *, refused: Any) -> Any:
        multiplier, offset, weight = host(columns.multiplier, columns.offset, columns.weight)
        columns = replace(columns, multiplier=multiplier, offset=offset, weight=weight)
        total = len(multiplier)
        out = np.empty((*rows.shape, total), columns.dtype), np.empty(rows.shape, np.float32)
        fuse_on_cpu(*host(items, rows, users, channels, side), columns, out, 1)
        return tuple(array.view(machine.ndarray) for array in out)

    def choosing(select: Any) -> Any:
        def chosen(items: Any, rows: Any, relevance: Any, trade_off: Any, k: int, *, refused: Any, **caps: Any) -> Any:
            (groups,) = host(caps["groups"])
            arrays = host(items, rows, relevance, trade_off)
            return select(*arrays, k, groups=groups, max_per_group=caps["max_per_group"]).view(machine.ndarray)

        return chosen

    def best(values: Any, k: int, out: Any = None) -> Any:
        return top_k(*host(values), k).view(machine.ndarray)

    def score(*given: Any) -> Any:
        return tuple(array.view(machine.ndarray) for array in score_pool_reference(*host(*given)))

    monkeypatch.setattr("shortlist.kernels.score_pool.gpu.score_pool", score)
    monkeypatch.setattr("shortlist.devices.gpu.fuse_features", fuse)
    monkeypatch.setattr("shortlist.devices.gpu.mmr", choosing(mmr))
    monkeypatch.setattr("shortlist.devices.gpu.dpp", choosing(dpp))
    monkeypatch.setattr(top_k_gpu, "top_k", best)


def _refuse_host_arrays(what: str, given: Any) -> None:
    for value in given:
        if isinstance(value, np.ndarray) and not isinstance(value, ndarray) and value.ndim:
            raise TypeError(f"{what}: Unsupported type {type(value)}")
