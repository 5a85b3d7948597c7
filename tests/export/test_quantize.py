"""INT8 keeps the filter's choice, quantizes something at all, and leaves the linear part alone."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from shortlist.export.onnx import export_student
from shortlist.export.parity import compare_quantized
from shortlist.export.quantize import count_qdq, quantize_student
from shortlist.models.student import Student

WIDTH, REQUESTS, CANDIDATES = 40, 20, 100


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(0)
    student = Student(WIDTH, (32, 16))
    nn.init.normal_(student.skip.weight, std=0.3)
    return export_student(student)


def _features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(REQUESTS, CANDIDATES, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def int8(graph: bytes) -> bytes:
    return quantize_student(graph, _features(0).reshape(-1, WIDTH))


def test_int8_keeps_the_filters_choice(graph: bytes, int8: bytes) -> None:
    report = compare_quantized(graph, int8, _features(1), top=25)
    assert report.overlap >= 0.98
    assert report.correlation > 0.999


def test_there_are_quantized_nodes(graph: bytes, int8: bytes) -> None:
    assert count_qdq(graph) == 0
    assert count_qdq(int8) >= 8


def test_weights_are_signed_and_activations_unsigned(int8: bytes) -> None:
    model = onnx.load_from_string(int8)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zero_points = [types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {onnx.TensorProto.UINT8}
    assert onnx.TensorProto.INT8 in types.values()


def test_the_linear_part_stays_in_float(int8: bytes) -> None:
    tensors = {tensor.name: tensor for tensor in onnx.load_from_string(int8).graph.initializer}
    assert tensors["skip.weight"].data_type == onnx.TensorProto.FLOAT


def test_a_graph_without_matrix_products_is_refused() -> None:
    node = onnx.helper.make_node("ReduceSum", ["features"], ["score"], keepdims=1)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "sum", [value("features", 1, ["pairs", WIDTH])], [value("score", 1, ["pairs", 1])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ValueError, match="no Q/DQ nodes"):
        quantize_student(model.SerializeToString(), _features(0).reshape(-1, WIDTH))


def test_calibration_data_are_needed(graph: bytes) -> None:
    with pytest.raises(ValueError, match="0 rows"):
        quantize_student(graph, np.zeros((0, WIDTH), np.float32))
