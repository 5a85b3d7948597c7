"""INT8 and FP8 graphs are symmetric, complete, and of the CPU graph's own calibration and weights."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shortlist.export.emulate import run_variant
from shortlist.export.parity import overlap, run_graph
from shortlist.export.qdq import count_pairs, integer_inputs, measured_ranges, quantize_products
from shortlist.export.quantize import quantized_inputs
from shortlist.export.samples import Subject
from shortlist.export.twin import calibrated_ranges, float_twin
from shortlist.models.student import CLIP

SHAPE = (12, 500)


def _tensors(graph: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(graph).graph.initializer}


@pytest.fixture(scope="module")
def int8(filter_subject: Subject) -> bytes:
    return quantize_products(filter_subject.graph, filter_subject.ranges, "int8")


def test_int8_is_symmetric_and_signed(int8: bytes) -> None:
    nodes = [node for node in onnx.load_from_string(int8).graph.node if "QuantizeLinear" in node.op_type]
    tensors = _tensors(int8)
    assert {(tensors[n.input[2]].dtype.name, bool(tensors[n.input[2]].any())) for n in nodes} == {("int8", False)}


@pytest.mark.parametrize(("kind", "pairs"), [("int8", 5), ("fp8", 6)])
def test_every_product_of_the_filter_is_quantized(filter_subject: Subject, kind: str, pairs: int) -> None:
    graph = quantize_products(filter_subject.graph, filter_subject.ranges, kind)
    assert count_pairs(onnx.load_from_string(graph)) == pairs


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_every_product_of_the_ranker_with_weights_is_quantized(ranker_subject: Subject, kind: str) -> None:
    graph = quantize_products(ranker_subject.graph, ranker_subject.ranges, kind)
    assert count_pairs(onnx.load_from_string(graph)) == 12


def test_int8_features_come_as_integers(int8: bytes) -> None:
    (features,) = [value for value in onnx.load_from_string(int8).graph.input if value.name == "features"]
    assert features.type.tensor_type.elem_type == TensorProto.INT8


def test_inputs_that_others_read_stay_in_float(float_ranker: bytes) -> None:
    assert integer_inputs(onnx.load_from_string(float_ranker)) == set()


def test_one_calibration_makes_both_graphs(float_filter: bytes, cpu_filter: bytes) -> None:
    cpu = _tensors(cpu_filter)
    gpu = _tensors(quantize_products(float_filter, calibrated_ranges(cpu_filter), "int8"))
    assert gpu["features_scale"] == pytest.approx(float(cpu["features_scale"]))
    assert gpu["relu_scale"] == pytest.approx(float(cpu["relu_scale"]) * 255 / 127)  # unsigned has twice the levels


@pytest.mark.parametrize("layer", ["mlp.0", "mlp.2"])
def test_both_graphs_have_the_same_integers_for_weights(cpu_filter: bytes, layer: str) -> None:
    gpu = _tensors(quantize_products(float_twin(cpu_filter), calibrated_ranges(cpu_filter), "int8"))
    (steps,) = [values for name, values in gpu.items() if layer in name and name.endswith("_quantized")]
    np.testing.assert_array_equal(steps, _tensors(cpu_filter)[f"student.{layer}.weight_quantized"])


def test_the_filter_keeps_its_choice_from_cpu_to_gpu(
    int8: bytes, cpu_filter: bytes, filter_inputs: dict[str, Any]
) -> None:
    on_cpu = run_graph(cpu_filter, quantized_inputs(filter_inputs, CLIP)).reshape(SHAPE)
    assert overlap(on_cpu, run_variant(int8, filter_inputs).reshape(SHAPE), 10) >= 0.98


def test_the_float_twin_has_the_graph_before_quantizing(
    float_filter: bytes, cpu_filter: bytes, filter_inputs: dict[str, Any]
) -> None:
    twin = float_twin(cpu_filter)
    difference = run_graph(twin, filter_inputs) - run_graph(float_filter, filter_inputs)
    assert count_pairs(onnx.load_from_string(twin)) == 0
    assert np.abs(difference).max() < 0.02


def test_the_float_twin_of_a_float_graph_is_the_graph(float_filter: bytes, filter_inputs: dict[str, Any]) -> None:
    expected = run_graph(float_filter, filter_inputs)
    np.testing.assert_array_equal(run_graph(float_twin(float_filter), filter_inputs), expected)


def test_linear_scores_stay_in_float(int8: bytes) -> None:
    assert _tensors(int8)["student.mlp.4.weight"].dtype == np.float32


def test_a_column_without_weights_is_no_division_by_zero(float_filter: bytes, filter_subject: Subject) -> None:
    model = onnx.load_from_string(float_filter)
    for tensor in model.graph.initializer:
        if tensor.name == "student.mlp.0.weight":
            weights = numpy_helper.to_array(tensor).copy()
            weights[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    graph = quantize_products(model.SerializeToString(), filter_subject.ranges, "int8")
    assert np.isfinite(run_variant(graph, filter_subject.inputs)).all()


def test_an_activation_without_a_range_is_refused(float_filter: bytes) -> None:
    with pytest.raises(ValueError, match=r"node_linear\S*: no range for its input 'features'"):
        quantize_products(float_filter, {}, "int8")


def test_a_graph_with_nothing_to_quantize_is_refused() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["features"], ["score"])
    graph = helper.make_graph([node], "plain", [value("features", 1, ["M"])], [value("score", 1, ["M"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ValueError, match="nothing to quantize"):
        quantize_products(model.SerializeToString(), {}, "int8")


def test_one_outlier_does_not_coarsen_the_steps_of_all(float_ranker: bytes, ranker_inputs: dict[str, Any]) -> None:
    history = np.tile(ranker_inputs["history"], (1, 40, 1))
    history[0, 0, 0] = 12.0
    assert measured_ranges(float_ranker, {**ranker_inputs, "history": history})["history"] < 6.1


def test_inputs_of_nothing_but_zeros_have_a_range(float_ranker: bytes, ranker_inputs: dict[str, Any]) -> None:
    ranges = measured_ranges(float_ranker, {**ranker_inputs, "side": np.zeros_like(ranker_inputs["side"])})
    assert ranges["side"] > 0
