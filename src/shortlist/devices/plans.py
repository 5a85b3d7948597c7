"""TensorRT plans as Scorers: static buffers for every bucket, filled in part, and a CUDA graph that replays each.

A plan was built for this GPU by `shortlist.export.engines`, which also keeps its manifest; here it is only opened and
run. Ran on a stand-in of TensorRT that executes the ONNX graph; with TensorRT itself it has not run yet.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import ValidationError

from shortlist.errors import BundleError
from shortlist.export.engines import Manifest, open_engine

Axes = dict[str, tuple[str | int, ...]]


def open_plan(engines: Path, model: str, cupy: Any, stream: Any) -> PlanScorer:
    """The plan `model`.plan in `engines`, verified against the graph beside it, this TensorRT and this GPU.

    Raises BundleError when one is missing, damaged or of another graph, TensorRT or GPU, saying how it differs.
    """
    trt = importlib.import_module("tensorrt")
    path = engines / f"{model}.plan"
    content = _read(path.with_suffix(".onnx"))
    manifest = _manifest(path.with_suffix(".json"))
    wanted = replace(
        manifest.recipe,
        model=model,
        graph=hashlib.sha256(content).hexdigest(),
        builder="tensorrt",
        version=trt.__version__,
        sm=int(cupy.cuda.Device().compute_capability),
    )
    open_engine(path, wanted)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BundleError(
            f"{path}: TensorRT {trt.__version__} cannot load the plan; delete it, so that it is built again"
        )
    graph = onnx.load_from_string(content).graph
    scorer = PlanScorer(path, trt, engine, _axes(graph.input), _axes(graph.output[:1]), cupy, stream)
    scorer.owners = (logger, runtime)
    return scorer


@dataclass(eq=False)
class Bucket:
    """One size of a plan: an execution context, its buffers, and the captured run."""

    context: Any
    inputs: dict[str, Any]
    output: Any
    run: Any  # a CUDA graph

    def holds(self, inputs: Mapping[str, Any]) -> bool:
        """Whether all of `inputs` fit into its buffers."""
        return all(
            size <= most
            for name, array in inputs.items()
            for size, most in zip(array.shape, self.inputs[name].shape, strict=True)
        )


class PlanScorer:
    """A plan, ready to run in each of its sizes. Smaller inputs leave the rest of a bucket's buffers as it was.

    That is harmless, because candidates and requests never see each other, and histories come with their lengths.
    Buckets run one after another on one stream, so they share the memory for what is in between.
    """

    def __init__(self, path: Path, trt: Any, engine: Any, inputs: Axes, output: Axes, cupy: Any, stream: Any) -> None:
        self.path, self._trt, self._engine, self._cupy, self._stream = path, trt, engine, cupy, stream
        self.owners: tuple[Any, ...] = ()  # what the engine needs to live
        self._inputs, ((self._output, self._sizes),) = inputs, output.items()
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in (*inputs, *output)}
        self._scratch = cupy.empty(max(1, engine.device_memory_size_v2), np.uint8)
        buckets = [self._open(number) for number in range(engine.num_optimization_profiles)]
        self.runs = tuple(bucket.run for bucket in buckets)  # the captured run of each profile, in their order
        self._buckets = sorted(buckets, key=lambda bucket: sum(array.nbytes for array in bucket.inputs.values()))

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The plan's output, float32: a part of the bucket's buffer. Batches beyond the largest bucket are halved.

        Raises BundleError for inputs that fit no bucket although they are of one request.
        """
        bucket = next((bucket for bucket in self._buckets if bucket.holds(inputs)), None)
        if bucket is None:
            return self._in_halves(inputs)
        actual: dict[str | int, int] = {}
        for name, array in inputs.items():
            bucket.inputs[name][tuple(map(slice, array.shape))] = array
            actual.update(zip(self._inputs[name], array.shape, strict=True))
        bucket.run.launch(self._stream)
        part = tuple(slice(actual[axis] if isinstance(axis, str) else axis) for axis in self._sizes)
        return bucket.output[part].astype(np.float32, copy=False)

    def dtype(self, name: str) -> str | None:
        """The type of the plan's input `name`."""
        return self._types[name].name

    def _in_halves(self, inputs: Mapping[str, Any]) -> Any:
        count = min(len(array) for array in inputs.values())
        if count < 2:
            shapes = {name: array.shape for name, array in inputs.items()}
            largest = {name: array.shape for name, array in self._buckets[-1].inputs.items()}
            raise BundleError(f"{self.path}: has no profile for {shapes}; its largest is {largest}; build it again")
        halves = (slice(count // 2), slice(count // 2, None))
        scores = [self({name: array[half] for name, array in inputs.items()}).copy() for half in halves]
        return self._cupy.concatenate(scores)

    def _open(self, number: int) -> Bucket:
        """Buffers and a captured run for one optimisation profile, at its largest size."""
        ours = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED  # else each takes as much as the largest
        context = self._engine.create_execution_context(ours)
        context.set_device_memory(self._scratch.data.ptr, self._scratch.nbytes)
        _must(context.set_optimization_profile_async(number, self._stream.ptr), self.path, f"profile {number}")
        buffers = {name: self._buffer(name, number) for name in self._inputs}
        for name, buffer in buffers.items():
            _must(context.set_input_shape(name, buffer.shape), self.path, f"shape {buffer.shape} of {name}")
            _must(context.set_tensor_address(name, buffer.data.ptr), self.path, f"the address of {name}")
        output = self._cupy.zeros(tuple(context.get_tensor_shape(self._output)), self._types[self._output])
        _must(context.set_tensor_address(self._output, output.data.ptr), self.path, f"the address of {self._output}")
        return Bucket(context, buffers, output, self._capture(context))

    def _buffer(self, name: str, number: int) -> Any:
        _, _, most = self._engine.get_tensor_profile_shape(name, number)
        return self._cupy.zeros(tuple(most), self._types[name])

    def _capture(self, context: Any) -> Any:
        """A CUDA graph of one run; the run before lets TensorRT allocate what capturing forbids."""
        _must(context.execute_async_v3(self._stream.ptr), self.path, "a first run")
        self._stream.synchronize()
        self._stream.begin_capture()
        done = context.execute_async_v3(self._stream.ptr)
        try:
            graph = self._stream.end_capture()
        except RuntimeError:  # CUDA's: what cannot be captured ends the capture
            done = False
        _must(done, self.path, "a captured run")
        return graph


def _must(done: bool, path: Path, what: str) -> None:
    if not done:
        raise BundleError(f"{path}: TensorRT refuses {what}; build the plan again on this machine")


def _axes(values: Sequence[Any]) -> Axes:
    """For each tensor the names of its dynamic axes, and the sizes of the others."""
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); export the GPU repository again") from None


def _manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(_read(path))
    except ValidationError as error:
        raise BundleError(f"{path}: is no manifest of a plan; build the plan again") from error
