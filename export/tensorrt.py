"""ONNX graphs to TensorRT plans, by either of two builders that share an API.

`tensorrt` builds on the machine that will run the plan, for the GPU it has. `tensorrt_rtx_bindings` builds ahead of
time for a named compute capability and needs no GPU; its engines are not TensorRT plans, but they prove that NVIDIA's
parser and compiler take the graph. Networks are strongly typed: precision is in the graph
(`shortlist.export.variants`). Plans are kept and checked by `shortlist.export.engines`.
"""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from shortlist.errors import BundleError, ConfigError, MissingExtraError

BUILDERS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}  # name: module
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WORKSPACE = 256 << 20  # bytes of scratch that a plan may ask for
NO_GPU = "cudaError 35"  # what the libraries log on a machine without a driver, whatever the matter is

Profile = Mapping[str, tuple[int, int, int]]
"""Sizes of each dynamic axis: the smallest, the one to be fastest at, the largest."""


@dataclass(frozen=True)
class Backend:
    """An installed builder."""

    name: str  # tensorrt or tensorrt_rtx
    version: str
    module: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that the machine does not have."""
        return self.name == "tensorrt_rtx"


@dataclass(frozen=True)
class Layer:
    """A layer of a network, as the parser typed it."""

    name: str
    type: str
    inputs: tuple[str, ...]  # dtypes
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Built:
    """A plan and how it came about."""

    plan: bytes
    layers: tuple[Layer, ...]
    seconds: float
    timing: bytes  # timing cache to hand to the next build; empty where the builder has none


def find_backend(name: str | None = None) -> Backend:
    """The builder called `name`, or the first that is installed: `tensorrt` before `tensorrt_rtx`.

    Raises MissingExtraError or ConfigError when it is not installed, ConfigError for an unknown name.
    """
    if name is not None and name not in BUILDERS:
        raise ConfigError(f"builder = {name!r}: unknown; {', '.join(BUILDERS)} is allowed")
    for candidate in BUILDERS if name is None else (name,):
        try:
            module = importlib.import_module(BUILDERS[candidate])
        except ImportError:
            continue
        return Backend(candidate, module.__version__, module)
    if name == "tensorrt":
        raise ConfigError(
            "tensorrt is not installed, and no extra brings it: it must be the one of the target, as in the image of "
            "Dockerfile.gpu; elsewhere: pip install tensorrt-cu12"
        )
    raise MissingExtraError(name or "TensorRT", "rtx")


def build(graph: bytes, profiles: Sequence[Profile], sm: int, backend: Backend, timing: bytes = b"") -> Built:
    """Build the plan of `graph` for compute capability `sm` (89 is 8.9) with one optimisation profile per bucket.

    Raises ConfigError for a capability that the backend cannot build for, BundleError with the parser's or compiler's
    messages when it refuses the graph.
    """
    check_capability(sm, backend)
    trt, logger = backend.module, _new_logger(backend.module)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise BundleError(f"{_title(backend)} cannot parse the graph: {_parser_errors(parser)}")
    config = _configure(builder, network, profiles, sm, backend)
    if not backend.ahead_of_time:
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    layers = _layers(network)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if plan is None:
        raise BundleError(f"{_title(backend)} cannot build the graph for sm {sm}: {'; '.join(logger.errors)}")
    used = b"" if backend.ahead_of_time else bytes(config.get_timing_cache().serialize())
    return Built(bytes(plan), layers, seconds, used)


def check_capability(sm: int, backend: Backend) -> None:
    """Raises ConfigError, saying what to do, when `backend` has no way to build for compute capability `sm`."""
    if not backend.ahead_of_time:
        here = device_capability()
        if here != sm:
            found = "there is none" if here is None else f"this one has {here}"
            raise ConfigError(
                f"sm = {sm}: {_title(backend)} builds for the GPU at hand, and {found}; build on the target"
            )
        return
    if sm == 75:
        raise ConfigError(
            f"sm = 75: {_title(backend)} has no FP32 matrix products for Turing, which scores need; "
            "serve the graphs with ONNX Runtime there, or build on the target with `tensorrt`"
        )
    known = [int(name[2:]) for name in backend.module.ComputeCapability.__members__ if name.startswith("SM")]
    allowed = sorted(set(known) - {75})
    if sm not in allowed:
        raise ConfigError(
            f"sm = {sm}: {_title(backend)} builds for {', '.join(map(str, allowed))} only (datacentre GPUs such as the "
            "H100 are not RTX's); build on the target with `tensorrt`"
        )


def device_capability() -> int | None:
    """Compute capability of the first GPU, 89 for 8.9; None where there is no driver or GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for value, attribute in ((major, 75), (minor, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return 10 * major.value + minor.value


def bucket_profiles(
    candidates: Sequence[int], history: int = 0, batches: Sequence[int] = BATCHES, *, exact: bool = True
) -> list[Profile]:
    """One profile for each candidate count and batch: axes batch, candidates, history and pairs (= batch · candidates).

    `exact` profiles have one size, which a captured CUDA graph replays and kernels are chosen for: the caller pads.
    Otherwise a profile reaches down to the bucket below it, so that any batch finds one (Triton's own batches).
    """
    profiles: list[Profile] = []
    for count in candidates:
        for below, batch in zip((0, *batches), batches, strict=False):
            least = batch if exact else below + 1
            sizes = {"batch": (least, batch, batch), "candidates": (count, count, count)}
            pairs = batch * count if exact else below * count + 1
            sizes |= {"pairs": (pairs, batch * count, batch * count), "history": (history, history, history)}
            profiles.append(sizes)
    return profiles


def graph_axes(graph: bytes) -> dict[str, list[str | int]]:
    """Shape of each input: the name of a dynamic axis, or its size."""
    inputs = onnx.load_from_string(graph).graph.input
    return {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs}


def used_axes(graph: bytes, profiles: Sequence[Profile]) -> list[Profile]:
    """`profiles` reduced to the dynamic axes that the graph has. Raises ConfigError when one has no size."""
    axes = {axis for shape in graph_axes(graph).values() for axis in shape if isinstance(axis, str)}
    for profile in profiles:
        if missing := sorted(axes - set(profile)):
            raise ConfigError(f"profile {dict(profile)}: no size for {', '.join(missing)}, a dynamic axis of the graph")
    return [{axis: profile[axis] for axis in sorted(axes)} for profile in profiles]


def _configure(builder: Any, network: Any, profiles: Sequence[Profile], sm: int, backend: Backend) -> Any:
    trt, config = backend.module, builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if backend.ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    for sizes in profiles:
        profile = builder.create_optimization_profile()
        for place in range(network.num_inputs):
            set_shapes(profile, network.get_input(place), sizes)
        if config.add_optimization_profile(profile) < 0:
            raise ConfigError(f"profile {dict(sizes)}: {_title(backend)} refuses it")
    return config


def set_shapes(profile: Any, tensor: Any, sizes: Profile) -> None:
    """Give an optimisation profile the three shapes of an input, its dynamic axes sized by name."""
    names = [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]
    shapes = [
        tuple(sizes[name][which] if size < 0 else size for name, size in zip(names, tensor.shape, strict=True))
        for which in range(3)
    ]
    profile.set_shape(tensor.name, *shapes)


def _layers(network: Any) -> tuple[Layer, ...]:
    found = []
    for layer in (network.get_layer(place) for place in range(network.num_layers)):
        inputs = [layer.get_input(place) for place in range(layer.num_inputs)]
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        types = [tuple(tensor.dtype.name for tensor in tensors if tensor is not None) for tensors in (inputs, outputs)]
        found.append(Layer(layer.name, layer.type.name, types[0], types[1]))
    return tuple(found)


def _new_logger(trt: Any) -> Any:
    """A logger that keeps errors: the base class is the backend's own."""

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and (said := _without_noise(message)):
                self.errors.append(said)

    return Kept()


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    return "; ".join(f"node {e.node_name()!r} ({e.node_operator()}): {_without_noise(e.desc())}" for e in errors)


def _without_noise(message: str) -> str:
    return " ".join(line.strip() for line in message.splitlines() if NO_GPU not in line)


def _title(backend: Backend) -> str:
    return f"{backend.name} {backend.version}"
