"""The models of a GPU repository beside `cascade`: two TensorRT plans, and what an ensemble needs around them.

A plan takes numbers, a request brings ids; so `before_filter`, `before_ranker` and `after_ranker` (Python, on the CPU)
gather and choose, and `stages` is the ensemble over all five. Names, types and shapes of the plans are those of their
ONNX graphs. None is batched by Triton: a plan's axes are not all one batch, and the caller sizes them.
"""

from __future__ import annotations

from typing import Any

from shortlist.serving.tensors import (
    CHANNELS,
    ENSEMBLE,
    INPUTS,
    ITEM_ID,
    ROWS,
    SCORE,
    DataType,
    Model,
    Tensor,
)

FILTER, RANKER = "filter", "ranker"
PLANS = (FILTER, RANKER)
BEFORE_FILTER, BEFORE_RANKER, AFTER_RANKER = "before_filter", "before_ranker", "after_ranker"
DATA_TYPES: dict[str, DataType] = {  # ONNX's name -> Triton's
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT64": "INT64",
}
PERSON = tuple(Tensor(t.name, t.dtype, (1, *t.shape), t.help) for t in INPUTS)
FOUND_ROWS, FOUND_CHANNELS = (Tensor(t.name, t.dtype, (1, *t.shape), t.help) for t in (ROWS, CHANNELS))
SLATE = tuple(Tensor(t.name, t.dtype, (1, *t.shape), t.help) for t in (ITEM_ID, SCORE))
FILTER_SCORE = Tensor("filter_score", "FP32", (-1,), "the filter's score of each row")
RANKER_SCORE = Tensor("ranker_score", "FP32", (1, -1), "the ranker's score of each row")
STEPS = (BEFORE_FILTER, FILTER, BEFORE_RANKER, RANKER, AFTER_RANKER)


def plan_model(name: str, graph: bytes) -> Model:
    """The Triton model of a plan built from an ONNX graph: its tensors, -1 where an axis is dynamic."""
    import onnx  # takes its time, and most who import this have a repository already

    described = onnx.load_from_string(graph).graph
    inputs, outputs = (tuple(_tensor(value) for value in values) for values in (described.input, described.output))
    return Model(name, inputs, outputs, batched=False)


def gpu_models(filter_graph: bytes, ranker_graph: bytes) -> dict[str, Model]:
    """Every model that stands beside `cascade`, by name, in the order in which a request passes them; then `stages`."""
    plans = {name: plan_model(name, graph) for name, graph in zip(PLANS, (filter_graph, ranker_graph), strict=True)}
    given = {name: plan.inputs for name, plan in plans.items()}
    around = [
        Model(BEFORE_FILTER, PERSON, (FOUND_ROWS, FOUND_CHANNELS, *given[FILTER]), batched=False),
        plans[FILTER],
        Model(
            BEFORE_RANKER,
            (*PERSON, FOUND_ROWS, FOUND_CHANNELS, FILTER_SCORE),
            (FOUND_ROWS, *given[RANKER]),
            batched=False,
        ),
        plans[RANKER],
        Model(AFTER_RANKER, (FOUND_ROWS, RANKER_SCORE), SLATE, batched=False),
        Model(ENSEMBLE.name, PERSON, SLATE, batched=False),
    ]
    return {model.name: model for model in around}


def tensor_names(step: Model) -> tuple[dict[str, str], dict[str, str]]:
    """How an ensemble calls a step's inputs and outputs; what several steps make under one name gets theirs before."""
    inputs = {t.name: _input_name(step, t) for t in step.inputs}
    outputs = {t.name: _output_name(step, t) for t in step.outputs}
    return inputs, outputs


def _input_name(step: Model, tensor: Tensor) -> str:
    if step.name in PLANS:
        return f"{step.name}_{tensor.name}"
    if tensor in PERSON or tensor in (FILTER_SCORE, RANKER_SCORE):
        return tensor.name
    return f"{'kept' if step.name == AFTER_RANKER else 'found'}_{tensor.name}"


def _output_name(step: Model, tensor: Tensor) -> str:
    if step.name in PLANS:
        return f"{step.name}_score"
    if step.name == AFTER_RANKER:
        return tensor.name
    if tensor in (FOUND_ROWS, FOUND_CHANNELS):
        return f"{'kept' if step.name == BEFORE_RANKER else 'found'}_{tensor.name}"
    return f"{step.name.removeprefix('before_')}_{tensor.name}"


def _tensor(value: Any) -> Tensor:
    from onnx import TensorProto

    described = value.type.tensor_type
    shape = tuple(-1 if d.dim_param else d.dim_value for d in described.shape.dim)
    return Tensor(value.name, DATA_TYPES[TensorProto.DataType.Name(described.elem_type)], shape, "of the ONNX graph")
