"""As much of TensorRT as a runner of plans uses: ONNX Runtime executes the graph that a plan was made of.

A plan is JSON here: the graph and its profiles; one with a `cost` only passes that time, on this module's clock.
Buffers are addresses of this process; while its stream captures, a run is recorded instead of done.
"""

from __future__ import annotations

import base64
import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

VERSION = "10.9.0"


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


@dataclass
class Context:
    """An execution context, whose buffers are addresses of this process."""

    engine: Engine
    profile: int = -1
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    scratch: tuple[int, int] = (0, 0)  # address and bytes
    has_run: bool = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0, "not aligned"
        assert size >= self.engine.device_memory_size_v2, "too little"
        self.scratch = memory, size

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return stream == 7

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape == self.engine.get_tensor_profile_shape(name, self.profile)[2]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address > 0

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = self.engine.profiles[self.profile]
        return tuple(sizes[axis][2] if isinstance(axis, str) else axis for axis in self.engine.shapes[name])

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.machine.refuses_to_run or not self.scratch[0]:
            return False
        current = self.engine.machine.streams[-1]
        if current.recorded is None:
            self._run()
        elif not self.has_run or self.engine.machine.refuses_capture:  # it would allocate
            current.is_spoiled = True
            return False
        else:
            current.recorded.append(self._run)
        self.has_run = True
        return True

    def _run(self) -> None:
        if self.engine.cost:
            self.engine.machine.clock += self.engine.cost
            return
        given = {name: self._memory(name, shape) for name, shape in self.shapes.items()}
        (name,) = (n for n in self.engine.shapes if n not in self.shapes)
        self._memory(name, self.get_tensor_shape(name))[...] = self.engine.session.run(None, given)[0]

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self.engine.get_tensor_dtype(name))
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_byte * size).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)


class Engine:
    """A plan: an ONNX graph and the sizes of its axes."""

    def __init__(self, machine: TensorRT, plan: bytes) -> None:
        content = json.loads(plan)
        self.machine, self.profiles, self.cost = machine, content["profiles"], content.get("cost", 0.0)
        graph = base64.b64decode(content["graph"])
        values = onnx.load_from_string(graph).graph
        tensors = [*values.input, *values.output]
        self.types = {v.name: v.type.tensor_type.elem_type for v in tensors}
        self.shapes = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in tensors}
        if not self.cost:
            self.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = 4096
        self.contexts: list[Context] = []

    def create_execution_context(self, strategy: str = "static") -> Context:
        own = (256 * (1 + len(self.contexts)), self.device_memory_size_v2) if strategy == "static" else (0, 0)
        self.contexts.append(Context(self, scratch=own))
        return self.contexts[-1]

    def get_tensor_dtype(self, name: str) -> str:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.types[name])))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        sizes = self.profiles[profile]
        return [tuple(sizes[a][which] if isinstance(a, str) else a for a in self.shapes[name]) for which in range(3)]


class TensorRT(ModuleType):
    """The module `tensorrt`: it runs plans, it builds none."""

    Logger = Logger

    def __init__(self, streams: Sequence[Any]) -> None:
        super().__init__("tensorrt")
        self.__version__ = VERSION
        self.streams, self.refuses_to_run, self.refuses_capture, self.loads = streams, False, False, True
        self.ExecutionContextAllocationStrategy = SimpleNamespace(STATIC="static", USER_MANAGED="user managed")
        self.nptype, self.clock = np.dtype, 0.0

    def Runtime(self, logger: Logger) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(self, plan) if self.loads else None)
