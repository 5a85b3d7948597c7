"""The trained modules as the graphs that serve, with the proof that they compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.export.onnx import CalibratedRanker, export_ranker, export_student, export_user
from shortlist.export.parity import check_parity, compare_quantized
from shortlist.export.quantize import count_qdq, quantize_student
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.models.student import Student
from shortlist.training.student import Distillation
from shortlist.types import Float32, Int64

CALIBRATION_REQUESTS = 64  # of the distillation, whose candidates calibrate INT8
COMPARED_REQUESTS = 200
Inputs = dict[str, NDArray[Any]]


def export_graphs(
    retriever: Retriever, ranker: Ranker, student: Student, data: Distillation, rank_depth: int
) -> tuple[dict[str, bytes], dict[str, float]]:
    """Graphs `user`, `filter` (INT8) and `ranker`, and the parity of each with its module on requests of `data`.

    Raises BundleError when a graph differs from its torch module by more than 1e-4.
    """
    some = np.arange(min(COMPARED_REQUESTS, len(data)))
    user_inputs, ranker_inputs = _user_inputs(retriever, data, some), _ranker_inputs(ranker, data, some)
    user = export_user(retriever.user_module, user_inputs["history"].shape[2], user_inputs["side"].shape[1])
    ranked, exact = export_ranker(ranker), export_student(student)
    features = data.features(some)
    flat = features.reshape(-1, features.shape[-1])
    parity = {
        "user: torch - onnx": check_parity(retriever.user_module, user, user_inputs),
        "ranker: torch - onnx": check_parity(CalibratedRanker(ranker), ranked, ranker_inputs),
        "filter: torch - onnx": check_parity(student, exact, {"features": flat}),
    }
    last = data.features(np.arange(len(data))[-CALIBRATION_REQUESTS:])
    quantized = quantize_student(exact, last.reshape(-1, last.shape[-1]))
    compared = compare_quantized(exact, quantized, features, rank_depth)
    parity |= {
        "filter: int8 overlap": compared.overlap,
        "filter: int8 correlation": compared.correlation,
        "filter: q/dq nodes": count_qdq(quantized),
    }
    return {"user": user, "filter": quantized, "ranker": ranked}, parity


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
