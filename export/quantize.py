"""Post-training INT8 quantization of the filter, by ONNX Runtime's static quantizer with Q/DQ nodes.

Weights are signed 8-bit per channel and activations unsigned 8-bit, which ONNX Runtime's CPU kernels run fastest. The
features come as integers already (`shortlist.kernels.fuse_features`); the last layer, one number a row, stays float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_BATCH = 4096
MATRIX_PRODUCTS = ("Gemm", "MatMul")
QUANTIZED = (*MATRIX_PRODUCTS, "Relu")  # a ReLU between two products is absorbed by the unsigned range
ZERO_POINT, LEVELS = 128, 127  # of the features: uint8 1 … 255 stands for -clip … clip


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        starts = range(0, len(inputs["features"]), CALIBRATION_BATCH)
        self._batches: Iterator[dict[str, NDArray[Any]]] = iter(
            [{name: values[start : start + CALIBRATION_BATCH] for name, values in inputs.items()} for start in starts]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def quantize_student(
    graph: bytes, calibration: Mapping[str, NDArray[Any]], clip: float, per_channel: bool = True
) -> bytes:
    """An exported student as the graph features u8[M, G], linear f32[M] -> score f32[M].

    `calibration` are the exported graph's own inputs, features f32[M, G] within ±`clip` and linear f32[M], for
    candidates of training requests: they give the ranges of the hidden activations.

    Raises ValueError when the quantizer left the graph as it was, which it does without a word.
    """
    if not len(calibration["features"]):
        raise ValueError("calibration has 0 rows; give the student's inputs of some training requests")
    features = {"scale": np.array(clip / LEVELS, np.float32), "zero_point": np.array(ZERO_POINT, np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Batches(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=float_nodes(onnx.load(prepared)),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": {"features": [features]}},
        )
        model = onnx.load(target)
    _take_integers(model, "features")
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def quantized_inputs(inputs: Mapping[str, NDArray[Any]], clip: float) -> dict[str, NDArray[Any]]:
    """The exported graph's inputs as the quantized graph takes them."""
    steps = np.rint(inputs["features"] * np.float32(LEVELS / clip)) + ZERO_POINT
    return {**inputs, "features": steps.astype(np.uint8)}


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


def _take_integers(model: onnx.ModelProto, name: str) -> None:
    """Make the input `name` what its QuantizeLinear node gives, in place.

    Raises ValueError where there is none.
    """
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name]
    if not nodes:
        raise ValueError("the quantizer inserted no Q/DQ nodes; the graph has no matrix product with constant weights")
    for node in model.graph.node:
        node.input[:] = [name if given == nodes[0].output[0] else given for given in node.input]
    model.graph.node.remove(nodes[0])
    (given,) = (value for value in model.graph.input if value.name == name)
    given.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    del model.graph.value_info[:]
