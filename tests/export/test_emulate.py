"""The emulation rounds what the variant rounds, and the variants keep FP32's choice."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shortlist.export.emulate import emulated, run_variant, top_overlap, variant_inputs
from shortlist.export.parity import run_graph
from shortlist.export.precision import lower
from shortlist.export.qdq import quantize_products
from shortlist.export.samples import Subject
from shortlist.export.variants import make_variant

DTYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def _product(weights: np.ndarray) -> bytes:
    """features f32 [M, G] -> score f32 [M, H], a single weighted product."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["score"], name="product")],
        "product",
        [value("features", TensorProto.FLOAT, ["M", len(weights)])],
        [value("score", TensorProto.FLOAT, ["M", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)


@pytest.mark.parametrize("precision", DTYPES)
def test_inputs_weights_and_results_are_rounded(precision: str, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    features, weights = numbers
    dtype = DTYPES[precision]
    given = features.astype(np.float16).astype(dtype)  # inputs come in half precision whatever follows
    wanted = (given.astype(np.float32) @ weights.astype(dtype).astype(np.float32)).astype(dtype).astype(np.float32)
    found = run_variant(lower(_product(weights), precision), {"features": features})
    np.testing.assert_allclose(found, wanted, rtol=2 * float(ml_dtypes.finfo(dtype).eps))
    assert np.abs(found - features @ weights).max() > 1e-4


def test_fp8_saturates_and_rounds_as_its_type_does(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    features, weights = numbers
    dtype = ml_dtypes.float8_e4m3fn
    scale, weight_scale = np.float32(1 / 448), np.abs(weights).max(axis=0) / np.float32(448)
    given = np.clip(features / scale, -448, 448).astype(dtype).astype(np.float32) * scale
    wanted = given @ ((weights / weight_scale).astype(dtype).astype(np.float32) * weight_scale)
    found = run_variant(quantize_products(_product(weights), {"features": 1.0}, "fp8"), {"features": features})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_integer_inputs_are_given_in_steps_and_saturate(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    variant = quantize_products(_product(numbers[1]), {"features": 1.27}, "int8")
    features = np.array([[0.0, 0.004, 0.006, -0.5, 1.26, 1.27, 2.0, -2.0]], np.float32)
    assert variant_inputs(variant, {"features": features})["features"].tolist() == [[0, 0, 1, -50, 126, 127, 127, -127]]


def test_an_fp32_graph_is_emulated_by_itself(filter_subject: Subject) -> None:
    found = run_variant(filter_subject.graph, filter_subject.inputs)
    np.testing.assert_array_equal(found, run_graph(filter_subject.graph, filter_subject.inputs))


def test_an_emulated_graph_has_no_low_inputs(float_ranker: bytes) -> None:
    inputs = onnx.load_from_string(emulated(lower(float_ranker, "fp16"))).graph.input
    assert TensorProto.FLOAT16 not in {value.type.tensor_type.elem_type for value in inputs}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("model", ["filter_subject", "ranker_subject"])
def test_variants_keep_the_choice_of_fp32(model: str, precision: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(model)
    variant = make_variant(subject.graph, precision, subject.ranges)
    assert top_overlap(subject.graph, variant, subject.inputs, subject.real)["top10"] >= 0.98


def test_a_variant_of_other_weights_does_not_keep_it(filter_subject: Subject) -> None:
    model = onnx.load_from_string(filter_subject.graph)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    found = top_overlap(filter_subject.graph, model.SerializeToString(), filter_subject.inputs, filter_subject.real)
    assert found["top10"] < 0.9


def test_padding_is_never_among_the_best(filter_subject: Subject) -> None:
    real = filter_subject.real.copy()
    real[:, 10:] = False
    variant = make_variant(filter_subject.graph, "int8", filter_subject.ranges)
    assert top_overlap(filter_subject.graph, variant, filter_subject.inputs, real) == {"top10": 1.0}
