"""What a variant of a graph changes, measured on a CPU: top-k overlap with FP32 over the same requests.

ONNX Runtime has no CPU kernels for most FP16 and BF16 operators, and tensor cores sum in FP32 anyway. So a variant is
run in FP32 with every low tensor rounded to its type where it is made. INT8 runs as INT8; FP8 pairs become a
division, a cast there and back, and a product (ONNX Runtime 1.31 fuses them into an operator that it then refuses).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shortlist.export.parity import overlap, run_graph
from shortlist.export.precision import QDQ
from shortlist.types import Bool, Float32

ROUNDED = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
Inputs = Mapping[str, NDArray[Any]]


def top_overlap(
    graph: bytes,
    variant: bytes,
    inputs: Inputs,
    real: Bool,
    tops: tuple[int, ...] = (10,),
    items: Float32 | None = None,
) -> dict[str, float]:
    """Mean share of the best `top` candidates that `variant` has in common with `graph` (FP32), for each of `tops`.

    `inputs` are the FP32 graph's; `real` Bool[B, N] tells candidates from padding, and both graphs' scores hold B · N.
    With `items` [N, D] both give vectors [B, D] instead, and scores are their inner products with the items.
    """
    outputs = run_graph(graph, inputs), run_variant(variant, inputs)
    found = outputs if items is None else [vectors @ items.T for vectors in outputs]
    scores = [np.where(real, values.reshape(real.shape), np.float32(-np.inf)) for values in found]
    return {f"top{top}": overlap(scores[0], scores[1], top) for top in tops}


def run_variant(variant: bytes, inputs: Inputs) -> Float32:
    """The scores of a variant for the inputs of the FP32 graph, each rounded to what the variant takes."""
    return run_graph(emulated(variant), variant_inputs(variant, inputs))


def variant_inputs(variant: bytes, inputs: Inputs) -> dict[str, NDArray[Any]]:
    """`inputs` as FP32 for the emulated graph, those that the variant takes as integers divided by their scale."""
    model = onnx.load_from_string(variant)
    integers = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.INT8}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    given = dict(inputs)
    for node in model.graph.node:
        if node.input and node.input[0] in integers:
            scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
            given[node.input[0]] = np.clip(np.rint(inputs[node.input[0]] / scale), -127, 127).astype(np.int8)
    return given


def emulated(variant: bytes) -> bytes:
    """`variant` in FP32, its FP16 and BF16 tensors rounded to those types where they are made."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(variant), strict_mode=True)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    low = {name: kind for name, kind in types.items() if kind in ROUNDED}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [new for node in graph.node for part in _without_fp8(node, constants, graph) for new in _rounded(part, low)]
    entering = [node for value in graph.input if value.name in low for node in _enter(value, low[value.name], nodes)]
    for tensor in graph.initializer:
        if tensor.data_type in ROUNDED:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*entering, *nodes])
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _without_fp8(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """A Q or DQ node of FP8 as arithmetic and a cast; any other node as it is."""
    if node.op_type not in QDQ or constants[node.input[2]].data_type != TensorProto.FLOAT8E4M3FN:
        return [node]
    source, scale, target = node.input[0], node.input[1], node.output[0]
    if node.op_type == "QuantizeLinear":
        divided = helper.make_node("Div", [source, scale], [f"{target}_divided"])
        return [divided, helper.make_node("Cast", [divided.output[0]], [target], to=TensorProto.FLOAT8E4M3FN)]
    values = numpy_helper.to_array(constants[scale])
    if values.ndim:  # one scale a column of weights
        axis = next(a.i for a in node.attribute if a.name == "axis")
        graph.initializer.append(numpy_helper.from_array(np.expand_dims(values, 1 - axis), f"{scale}_column"))
        scale = f"{scale}_column"
    cast = helper.make_node("Cast", [source], [f"{target}_steps"], to=TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [cast.output[0], scale], [target])]


def _rounded(node: onnx.NodeProto, low: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    """`node` in FP32, followed by the rounding of its low outputs."""
    after = []
    for place, name in enumerate(node.output):
        if name in low:
            node.output[place] = f"{name}_exact"
            after += _round(f"{name}_exact", name, low[name])
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in ROUNDED:
            attribute.i = TensorProto.FLOAT
    yield node
    yield from after


def _enter(value: onnx.ValueInfoProto, kind: int, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The rounding of a low input, which becomes FP32; its readers read the rounded one."""
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == value.name:
                node.input[place] = f"{name}_rounded"
    return _round(value.name, f"{value.name}_rounded", kind)


def _round(source: str, target: str, kind: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}_low"], to=kind),
        helper.make_node("Cast", [f"{target}_low"], [target], to=TensorProto.FLOAT),
    ]
