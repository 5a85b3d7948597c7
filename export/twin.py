"""What the quantized graph that the CPU runs (U8S8) knows: its ranges, and the FP32 graph under it.

TensorRT's variants are made of these two, so that one calibration and one set of weights serve both machines and a
bundle needs no second graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shortlist.export.precision import QDQ, replace_nodes


def calibrated_ranges(graph: bytes) -> dict[str, float]:
    """Largest magnitude that each activation of a quantized graph (U8S8) resolves, by tensor name.

    An input that is given as integers already has the range of its integers.
    """
    model = onnx.load_from_string(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    ranges = {}
    for node in model.graph.node:
        given = node.op_type == "DequantizeLinear" and node.input[0] not in constants and node.input[0] not in quantized
        if node.op_type == "QuantizeLinear" or given:
            scale, zero = (float(constants[name]) for name in node.input[1:3])
            ranges[node.input[0]] = scale * max(255 - zero, zero - 1)
    return ranges


def feature_step(graph: bytes) -> float:
    """Deviations between neighbouring integers of the features that a quantized filter takes; 1 for a float one."""
    model = onnx.load_from_string(graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == "features":
            return float(numpy_helper.to_array(constants[node.input[1]]))
    return 1.0


def float_twin(graph: bytes) -> bytes:
    """The FP32 graph with the weights of a quantized one (U8S8): without Q/DQ nodes, integer inputs made FP32.

    Weights stay rounded to their integers. An unsigned activation whose zero point is 0 stands for a ReLU, which the
    quantizer left out because clipping at 0 is what it does.
    """
    model = onnx.load_from_string(graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    same: dict[str, str] = {}  # a tensor that a Q/DQ node made -> the one it stands for
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        source = node.input[0]
        if node.op_type == "DequantizeLinear" and source in constants:
            model.graph.initializer.append(numpy_helper.from_array(_dequantized(node, constants), node.output[0]))
        elif node.op_type in QDQ:
            if node.op_type == "QuantizeLinear" and not numpy_helper.to_array(constants[node.input[2]]):
                nodes.append(_relu_over(source, nodes))
            same[node.output[0]] = source
        else:
            nodes.append(node)
    for value in model.graph.input:
        if value.type.tensor_type.elem_type in (TensorProto.UINT8, TensorProto.INT8):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    replace_nodes(model, nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _relu_over(name: str, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
    """A ReLU whose output takes the name of a tensor that one of `nodes` makes, so that its range still applies."""
    linear = f"{name}_linear"
    for node in nodes:
        node.output[:] = [linear if made == name else made for made in node.output]
    return helper.make_node("Relu", [linear], [name], name=name)


def _dequantized(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> NDArray[Any]:
    """The constant that a DQ node over constants gives, Float32."""
    steps, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
    if scale.ndim:
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
        shape = [-1 if place == axis else 1 for place in range(steps.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    values: NDArray[Any] = ((steps.astype(np.int64) - zero) * scale).astype(np.float32)
    return values
