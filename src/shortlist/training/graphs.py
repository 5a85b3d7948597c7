"""The trained modules as the graphs that serve, with the proof that they compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.export.onnx import CalibratedRanker, export_ranker, export_student, export_user
from shortlist.export.parity import check_difference, check_parity, compare_quantized, overlap, run_graph
from shortlist.export.quantize import count_qdq, quantize_student
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.models.student import CLIP, Student
from shortlist.training.filter import FilterInput
from shortlist.training.student import Distillation
from shortlist.types import Float32, Int64

CALIBRATION_REQUESTS = 64  # of the distillation, whose candidates calibrate INT8
COMPARED_REQUESTS = 200
Inputs = dict[str, NDArray[Any]]


def export_graphs(
    retriever: Retriever,
    ranker: Ranker,
    student: Student,
    filter_input: FilterInput,
    data: Distillation,
    rank_depth: int,
) -> tuple[dict[str, bytes], dict[str, float]]:
    """Graphs `user`, `filter` (INT8) and `ranker`, and the parity of each with its module on requests of `data`.

    The filter's features are those that `filter_input` gives. Raises BundleError when a graph differs from its torch
    module by more than 1e-4.
    """
    some = np.arange(min(COMPARED_REQUESTS, len(data)))
    user_inputs, ranker_inputs = _user_inputs(retriever, data, some), _ranker_inputs(ranker, data, some)
    user = export_user(retriever.user_module, user_inputs["history"].shape[2], user_inputs["side"].shape[1])
    ranked = export_ranker(ranker)
    filtering, filter_parity = export_filter(student, filter_input, data, some, rank_depth)
    parity = {
        "user: torch - onnx": check_parity(retriever.user_module, user, user_inputs),
        "ranker: torch - onnx": check_parity(CalibratedRanker(ranker), ranked, ranker_inputs),
        **filter_parity,
    }
    return {"user": user, "filter": filtering, "ranker": ranked}, parity


def export_filter(
    student: Student, given: FilterInput, data: Distillation, some: Int64, rank_depth: int
) -> tuple[bytes, dict[str, float]]:
    """The graph `filter`, and what each step from the torch module to it changes.

    From raw features in torch to kernel and float graph nothing may change, once the item table has lost its last bits.
    """
    exact, in_float = export_student(student), given.in_float(student)
    calibrating = np.arange(len(data))[-CALIBRATION_REQUESTS:]
    quantized = quantize_student(exact, in_float.inputs(data, calibrating), CLIP)
    shape = data.requests.rows[some].shape
    before = run_graph(exact, in_float.inputs(data, some)).reshape(shape)
    after = run_graph(quantized, given.inputs(data, some)).reshape(shape)
    expected, trained = given.rounded(data).scores(student, some), data.scores(student, some)
    real = np.isfinite(expected)
    compared = compare_quantized(before, after, rank_depth)
    return quantized, {
        "filter: torch - onnx": check_difference(expected[real], before[real], "Student"),
        "filter: item table overlap": overlap(trained, expected, rank_depth),
        "filter: int8 overlap": compared.overlap,
        "filter: int8 correlation": compared.correlation,
        "filter: q/dq nodes": count_qdq(quantized),
    }


def _user_inputs(retriever: Retriever, data: Distillation, index: Int64) -> Inputs:
    batch = data.requests.subset(index)
    return {
        "history": _gather(retriever.history_vectors(), batch.history),
        "lengths": batch.lengths,
        "side": batch.side,
    }


def _ranker_inputs(ranker: Ranker, data: Distillation, index: Int64) -> Inputs:
    batch, table = data.requests.subset(index), ranker.item_embeddings()
    features = [_gather(data.item_features, batch.rows), batch.channels]
    return {
        "history": _gather(table, batch.history),
        "lengths": batch.lengths,
        "candidates": _gather(table, batch.rows),
        "features": np.concatenate(features, axis=2),
        "side": batch.side,
    }


def _gather(table: Float32, rows: NDArray[Any]) -> Float32:
    gathered: Float32 = table[np.maximum(rows, 0)]
    gathered[rows < 0] = 0
    return gathered
