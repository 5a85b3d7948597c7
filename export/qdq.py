"""INT8 and FP8 variants for TensorRT: symmetric Q/DQ pairs around the weighted matrix products of a graph.

TensorRT refuses asymmetric and unsigned activations, which ONNX Runtime's CPU kernels run fastest, so one calibration
makes two graphs: the ranges of the CPU's graph (`shortlist.export.twin`) scale this one as well. Graphs that the CPU
runs in FP32 are calibrated here (`measured_ranges`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shortlist.export.parity import run_graph
from shortlist.export.precision import QDQ, column_axis, replace_nodes, weighted_products

OPSET = 19  # the first with FP8, and with FP16 scales
KINDS = {"int8": (TensorProto.INT8, 127.0), "fp8": (TensorProto.FLOAT8E4M3FN, 448.0)}  # type, largest value
FUSED = "features"  # the input that the kernel `fuse_features` makes, scaled and clipped
Inputs = Mapping[str, NDArray[Any]]


def quantize_products(graph: bytes, ranges: Mapping[str, float], kind: str) -> bytes:
    """`graph` (FP32) with its weighted products in `kind`, int8 or fp8; linear scores of one column stay as they are.

    `ranges` gives the largest magnitude of each product's input, by tensor name. Weights are scaled by column. In INT8,
    what `fuse_features` can give as integers is taken as such, at the scale that its range implies.

    Raises ValueError when there is no product to quantize, one has no range, or Q/DQ nodes are missing.
    """
    model = onnx.version_converter.convert_version(onnx.load_from_string(graph), OPSET)
    products, integers = weighted_products(model), integer_inputs(model) if kind == "int8" else set()
    if not products:
        raise ValueError("there is nothing to quantize: the graph has no matrix product with constant weights")
    activations = {product.input[0] for product in products}
    added: dict[str, list[onnx.NodeProto]] = {}
    for product in products:
        name = product.input[0]
        if name not in ranges:
            raise ValueError(f"{product.name}: no range for its input {name!r}; calibrate this graph again")
        pair = _activation(model, name, ranges[name], kind, name in integers)
        added[product.output[0]] = [*pair, _weights(model, product, kind)]
        product.input[0] = f"{name}_dequantized"
    replace_nodes(model, [node for old in model.graph.node for node in (*added.get(old.output[0], ()), old)])
    wanted, found = len(products) + 2 * len(activations) - len(integers), count_pairs(model)
    if found != wanted:
        raise ValueError(f"{found} Q/DQ nodes instead of {wanted}: a weight or an activation is shared")
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def count_pairs(model: onnx.ModelProto) -> int:
    """Number of QuantizeLinear and DequantizeLinear nodes."""
    return sum(node.op_type in QDQ for node in model.graph.node)


def integer_inputs(model: onnx.ModelProto) -> set[str]:
    """Inputs that `fuse_features` makes and that weighted products alone read, so that they may come as integers."""
    products = {product.output[0] for product in weighted_products(model)}
    others = {name for node in model.graph.node if node.output[0] not in products for name in node.input}
    read = {product.input[0] for product in weighted_products(model)}
    return {value.name for value in model.graph.input if value.name == FUSED and value.name in read - others}


def measured_ranges(graph: bytes, inputs: Inputs) -> dict[str, float]:
    """The range of each weighted product's input with the least squared error of INT8 over `inputs`, by tensor name."""
    model = onnx.load_from_string(graph)
    ranges = {}
    for name in sorted({product.input[0] for product in weighted_products(model)}):
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        ranges[name] = _best_range(run_graph(model.SerializeToString(), inputs))
    return ranges


def _best_range(values: NDArray[np.float32]) -> float:
    """A few outliers are better clipped than let the others have coarser steps."""
    largest = float(np.abs(values).max(initial=0.0))
    tried = largest * np.linspace(0.1, 1.0, 19) if largest else np.ones(1)
    errors = []
    for limit in tried:
        step = limit / 127
        rounded = np.clip(np.rint(values / step), -127, 127) * step
        errors.append(float(np.square(rounded - values, dtype=np.float64).mean()))
    return float(tried[int(np.argmin(errors))])


def _activation(
    model: onnx.ModelProto, name: str, largest: float, kind: str, as_integers: bool
) -> list[onnx.NodeProto]:
    """The Q/DQ pair of an activation, or its DQ alone where it is given as integers; nothing when it has one."""
    if any(tensor.name == f"{name}_scale" for tensor in model.graph.initializer):
        return []
    dtype, top = _numbers(kind)
    _constant(model, f"{name}_scale", np.array(largest / top or 1.0, np.float32))
    _constant(model, f"{name}_zero", np.zeros((), dtype))
    scaling = [f"{name}_scale", f"{name}_zero"]
    if as_integers:
        value = next(value for value in model.graph.input if value.name == name)
        value.type.tensor_type.elem_type = TensorProto.INT8
        return [_node("DequantizeLinear", [name, *scaling], f"{name}_dequantized")]
    return [
        _node("QuantizeLinear", [name, *scaling], f"{name}_quantized"),
        _node("DequantizeLinear", [f"{name}_quantized", *scaling], f"{name}_dequantized"),
    ]


def _weights(model: onnx.ModelProto, product: onnx.NodeProto, kind: str) -> onnx.NodeProto:
    """Replaces a product's weights by quantized ones; returns the DQ node that gives them back."""
    dtype, top = _numbers(kind)
    name, axis = product.input[1], column_axis(product)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weights = numpy_helper.to_array(tensor)
    largest = np.abs(weights).max(axis=1 - axis)
    scale = np.where(largest > 0, largest / top, 1).astype(np.float32)
    scaled = weights / np.expand_dims(scale, 1 - axis)
    steps = (np.rint(scaled) if dtype == np.int8 else scaled).astype(dtype)
    _constant(model, f"{name}_quantized", steps)
    _constant(model, f"{name}_scale", scale)
    _constant(model, f"{name}_zero", np.zeros(len(scale), dtype))
    product.input[1] = f"{name}_dequantized"
    inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero"]
    return _node("DequantizeLinear", inputs, f"{name}_dequantized", axis=axis)


def _numbers(kind: str) -> tuple[np.dtype[Any], float]:
    number, largest = KINDS[kind]
    return np.dtype(helper.tensor_dtype_to_np_dtype(number)), largest


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _constant(model: onnx.ModelProto, name: str, values: NDArray[Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(values, name))


def asymmetric(graph: bytes) -> bytes:
    """A quantized graph with the zero points of its activations off zero, which TensorRT refuses: to prove that."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_zero") and not tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int8(1), tensor.name))
    content: bytes = model.SerializeToString()
    return content
