"""INT8 keeps the filter's choice, takes integers, quantizes something at all, and leaves the linear part alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from shortlist.export.onnx import export_student
from shortlist.export.parity import compare_quantized, run_graph
from shortlist.export.quantize import count_qdq, quantize_student, quantized_inputs
from shortlist.models.student import CLIP, Student

WIDTH, REQUESTS, CANDIDATES = 40, 20, 100
Inputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(0)
    return export_student(Student(WIDTH, (32, 16)))


def _inputs(seed: int, rows: int = REQUESTS * CANDIDATES) -> Inputs:
    rng = np.random.default_rng(seed)
    features = np.clip(rng.normal(size=(rows, WIDTH)), -CLIP, CLIP).astype(np.float32)
    return {"features": features, "linear": rng.normal(size=rows).astype(np.float32) * 0.3}


@pytest.fixture(scope="module")
def int8(graph: bytes) -> bytes:
    return quantize_student(graph, _inputs(0), CLIP)


def test_int8_keeps_the_filters_choice(graph: bytes, int8: bytes) -> None:
    inputs, shape = _inputs(1), (REQUESTS, CANDIDATES)
    before = run_graph(graph, inputs).reshape(shape)
    report = compare_quantized(before, run_graph(int8, quantized_inputs(inputs, CLIP)).reshape(shape), top=25)
    assert report.overlap >= 0.98
    assert report.correlation > 0.999


def test_there_are_quantized_nodes(graph: bytes, int8: bytes) -> None:
    assert count_qdq(graph) == 0
    assert count_qdq(int8) >= 8


def test_features_come_as_integers_around_128(int8: bytes) -> None:
    model = onnx.load_from_string(int8)
    assert {value.name: value.type.tensor_type.elem_type for value in model.graph.input} == {
        "features": onnx.TensorProto.UINT8,
        "linear": onnx.TensorProto.FLOAT,
    }
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = (node for node in model.graph.node if "features" in node.input)
    assert node.op_type == "DequantizeLinear"
    assert constants[node.input[1]] == np.float32(CLIP / 127)
    assert constants[node.input[2]] == 128


def test_weights_are_signed_and_activations_unsigned(int8: bytes) -> None:
    model = onnx.load_from_string(int8)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zero_points = [types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {onnx.TensorProto.UINT8}
    assert onnx.TensorProto.INT8 in types.values()


def test_the_linear_part_stays_in_float(int8: bytes) -> None:
    inputs = quantized_inputs(_inputs(1, rows=3), CLIP)
    moved = {**inputs, "linear": inputs["linear"] + np.float32([1e-3, 100, -np.inf])}
    difference = run_graph(int8, moved) - run_graph(int8, inputs)
    np.testing.assert_allclose(difference, [1e-3, 100, -np.inf], atol=1e-5)


def test_a_score_does_not_depend_on_the_other_rows(int8: bytes) -> None:
    inputs = quantized_inputs(_inputs(1, rows=33), CLIP)
    alone = {name: values[4:5] for name, values in inputs.items()}
    assert run_graph(int8, inputs)[4] == run_graph(int8, alone)[0]


def test_a_graph_without_matrix_products_is_refused() -> None:
    node = onnx.helper.make_node("ReduceSum", ["features"], ["score"], keepdims=1)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "sum", [value("features", 1, ["pairs", WIDTH])], [value("score", 1, ["pairs", 1])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ValueError, match="no Q/DQ nodes"):
        quantize_student(model.SerializeToString(), {"features": _inputs(0)["features"]}, CLIP)


def test_calibration_data_are_needed(graph: bytes) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        quantize_student(graph, _inputs(0, rows=0), CLIP)
