"""Does an exported graph compute what the module computes, and what does INT8 change? Answers are numbers.

Graphs run in ONNX Runtime on one thread, as they are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from shortlist.errors import BundleError
from shortlist.types import Float32, Int64

TOLERANCE = 1e-4


@dataclass(frozen=True)
class QuantizationReport:
    """fp32 against INT8 over the same requests."""

    overlap: float  # mean share of the `top` best candidates that both have
    correlation: float  # of all scores, Pearson
    max_difference: float


def run_graph(graph: bytes, inputs: Mapping[str, NDArray[Any]]) -> Float32:
    """The first output of `graph` for named `inputs`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    output: Float32 = session.run(None, dict(inputs))[0]
    return output


def check_parity(
    module: nn.Module, graph: bytes, inputs: Mapping[str, NDArray[Any]], tolerance: float = TOLERANCE
) -> float:
    """Largest difference between `module` and `graph`, relative to values above 1 and absolute below.

    Inputs are named, in the order of `module.forward`.

    Raises BundleError when it exceeds `tolerance` or is not a number.
    """
    module.eval()
    with torch.no_grad():
        expected = module(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    found = run_graph(graph, inputs)
    if expected.shape != found.shape:
        raise BundleError(f"exported graph returns shape {found.shape}, the module {expected.shape}; export it again")
    difference = float((np.abs(expected - found) / np.maximum(1, np.abs(expected))).max(initial=0.0))
    if not difference <= tolerance:
        raise BundleError(
            f"exported graph differs from {type(module).__name__} by {difference:.2e}; {tolerance:.0e} is allowed"
        )
    return difference


def random_inputs(graph: bytes, sizes: Mapping[str, int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal inputs of the graph's own names and widths; dynamic axes take `sizes`, lengths are 0 to L."""
    rng = np.random.default_rng(seed)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs: dict[str, NDArray[Any]] = {}
    for described in session.get_inputs():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in described.shape]
        if described.name == "lengths":
            inputs["lengths"] = rng.integers(0, sizes["history"] + 1, shape).astype(np.int64)
        else:
            inputs[described.name] = rng.normal(size=shape).astype(np.float32)
    return inputs


def compare_quantized(float_graph: bytes, int8_graph: bytes, features: Float32, top: int) -> QuantizationReport:
    """How INT8 changes the student's choice of `top` candidates; features Float32[B, K, G] of B requests."""
    flat = np.ascontiguousarray(features.reshape(-1, features.shape[-1]))
    before, after = (run_graph(graph, {"features": flat}) for graph in (float_graph, int8_graph))
    shape = features.shape[:2]
    return QuantizationReport(
        overlap=overlap(before.reshape(shape), after.reshape(shape), top),
        correlation=float(np.corrcoef(before, after)[0, 1]),
        max_difference=float(np.abs(before - after).max()),
    )


def overlap(first: Float32, second: Float32, top: int) -> float:
    """Mean share of the `top` best columns that two score matrices [B, K] have in common."""
    chosen, other = _best(first, top), _best(second, top)
    return float((chosen[:, :, None] == other[:, None, :]).any(axis=2).mean())


def _best(scores: Float32, top: int) -> Int64:
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]
