"""FP16 and BF16 reach the matrix products and what lies between them, and nothing that makes a score."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shortlist.errors import ConfigError
from shortlist.export.precision import lower, weighted_products
from shortlist.export.variants import is_offered, make_variant

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def _types(graph: bytes) -> dict[str, int]:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("model", ["float_filter", "float_ranker"])
def test_weighted_products_are_of_the_low_type(model: str, precision: str, request: pytest.FixtureRequest) -> None:
    variant = lower(request.getfixturevalue(model), precision)
    types = _types(variant)
    products = weighted_products(onnx.load_from_string(variant))
    assert {types[name] for node in products for name in (*node.input, *node.output)} == {LOW[precision]}


@pytest.mark.parametrize("precision", LOW)
def test_attention_is_of_the_low_type(float_ranker: bytes, precision: str) -> None:
    variant = lower(float_ranker, precision)
    (softmax,) = [node for node in onnx.load_from_string(variant).graph.node if node.op_type == "Softmax"]
    assert _types(variant)[softmax.output[0]] == LOW[precision]


@pytest.mark.parametrize("precision", LOW)
def test_item_vectors_come_in_half_precision_and_the_rest_as_before(float_ranker: bytes, precision: str) -> None:
    inputs = onnx.load_from_string(lower(float_ranker, precision)).graph.input
    assert {value.name: value.type.tensor_type.elem_type for value in inputs} == {
        "history": TensorProto.FLOAT16,
        "lengths": TensorProto.INT64,
        "candidates": TensorProto.FLOAT16,
        "features": TensorProto.FLOAT,
        "side": TensorProto.FLOAT,
    }


@pytest.mark.parametrize("precision", LOW)
def test_the_linear_part_of_the_filter_stays_in_fp32(float_filter: bytes, precision: str) -> None:
    types = _types(lower(float_filter, precision))
    assert (types["features"], types["linear"], types["score"]) == (
        TensorProto.FLOAT16,
        TensorProto.FLOAT,
        TensorProto.FLOAT,
    )


def test_one_tensor_is_cast_once(float_ranker: bytes) -> None:
    nodes = onnx.load_from_string(lower(float_ranker, "fp16")).graph.node
    casts = [(node.input[0], node.attribute[0].i) for node in nodes if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))


def test_masks_stay_finite_in_half_precision(float_ranker: bytes) -> None:
    tensors = onnx.load_from_string(lower(float_ranker, "fp16")).graph.initializer
    floats = [numpy_helper.to_array(t) for t in tensors if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    with np.errstate(over="raise"):
        assert all(np.isfinite(values.astype(np.float16)).all() for values in floats)


def test_a_graph_without_weighted_products_stays_as_it_is() -> None:
    node = helper.make_node("Relu", ["features"], ["score"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "plain", [value("features", 1, ["M"])], [value("score", 1, ["M"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    assert _types(lower(model, "fp16")) == _types(model)


def test_fp32_is_the_graph_itself(float_filter: bytes) -> None:
    assert make_variant(float_filter, "fp32", {}) == float_filter


def test_an_unknown_precision_is_refused(float_filter: bytes) -> None:
    with pytest.raises(ConfigError, match=r"precision = 'fp4': unknown; fp32, fp16, bf16, int8, fp8"):
        make_variant(float_filter, "fp4", {})


@pytest.mark.parametrize(
    ("precision", "sm", "offered"),
    [("fp8", 86, False), ("fp8", 89, True), ("bf16", 75, False), ("bf16", 80, True), ("int8", 75, True)],
)
def test_precisions_are_offered_where_tensor_cores_have_them(precision: str, sm: int, offered: bool) -> None:
    assert is_offered(precision, sm) is offered
