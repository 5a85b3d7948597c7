"""Does an exported graph compute what the module computes, and what does INT8 change? Answers are numbers.

Graphs run in ONNX Runtime on one thread, as they are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shortlist.errors import BundleError
from shortlist.types import Float32, Int64

if TYPE_CHECKING:
    from torch import nn

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
    """Largest difference between `module` and `graph` for the same inputs, as in `check_difference`.

    Inputs are named, in the order of `module.forward`.
    """
    import torch  # here, as serving images have none

    module.eval()
    with torch.no_grad():
        expected = module(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    return check_difference(expected, run_graph(graph, inputs), type(module).__name__, tolerance)


def check_difference(expected: Float32, found: Float32, name: str, tolerance: float = TOLERANCE) -> float:
    """Largest difference of a graph's scores from those of the module `name`: relative above 1 and absolute below.

    Raises BundleError when it exceeds `tolerance` or is not a number.
    """
    if expected.shape != found.shape:
        raise BundleError(f"exported graph returns shape {found.shape}, the module {expected.shape}; export it again")
    difference = float((np.abs(expected - found) / np.maximum(1, np.abs(expected))).max(initial=0.0))
    if not difference <= tolerance:
        raise BundleError(f"exported graph differs from {name} by {difference:.2e}; {tolerance:.0e} is allowed")
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


def compare_quantized(before: Float32, after: Float32, top: int) -> QuantizationReport:
    """How INT8 changes the student's choice of `top` candidates; scores [B, K] before and after, -inf at padding."""
    real = np.isfinite(before)
    return QuantizationReport(
        overlap=overlap(before, after, top),
        correlation=float(np.corrcoef(before[real], after[real])[0, 1]),
        max_difference=float(np.abs(before[real] - after[real]).max()),
    )


def overlap(first: Float32, second: Float32, top: int) -> float:
    """Mean share of the `top` best columns that two score matrices [B, K] have in common."""
    chosen, other = _best(first, top), _best(second, top)
    return float((chosen[:, :, None] == other[:, None, :]).any(axis=2).mean())


def _best(scores: Float32, top: int) -> Int64:
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]
