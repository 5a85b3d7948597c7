"""Post-training INT8 quantization of the filter, by ONNX Runtime's static quantizer with Q/DQ nodes.

Weights are signed 8-bit per channel and activations unsigned 8-bit, which ONNX Runtime's CPU kernels run fastest. Only
the matrix products of the MLP are quantized: the student's linear part copies retrieval scores and stays in float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from shortlist.types import Float32

CALIBRATION_BATCH = 4096
MATRIX_PRODUCTS = ("Gemm", "MatMul")
QUANTIZED = (*MATRIX_PRODUCTS, "Relu")  # a ReLU between two products is absorbed by the unsigned range


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, features: Float32) -> None:
        starts = range(0, len(features), CALIBRATION_BATCH)
        self._batches: Iterator[Float32] = iter([features[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, Float32] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"features": batch}


def quantize_student(graph: bytes, calibration: Float32, per_channel: bool = True) -> bytes:
    """Quantize an exported student; `calibration` Float32[M, G] are raw inputs of training requests.

    Raises ValueError when the quantizer left the graph as it was, which it does without a word.
    """
    if not len(calibration):
        raise ValueError("calibration has 0 rows; give the student's inputs of some training requests")
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Batches(np.ascontiguousarray(calibration, np.float32)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=float_nodes(onnx.load(prepared)),
            calibrate_method=CalibrationMethod.MinMax,
        )
        content = target.read_bytes()
    if not count_qdq(content):
        raise ValueError("the quantizer inserted no Q/DQ nodes; the graph has no matrix product with constant weights")
    return content


def count_qdq(graph: bytes) -> int:
    """Number of QuantizeLinear and DequantizeLinear nodes."""
    nodes = onnx.load_from_string(graph).graph.node
    return sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the matrix products that give one number a row: the student's linear part and its last layer."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in MATRIX_PRODUCTS and any(1 in shapes.get(name, [])[:2] for name in node.input[1:2])
    ]
