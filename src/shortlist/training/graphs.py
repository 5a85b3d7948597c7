"""The trained modules as the graphs that serve, with the proof that they compute the same."""

from __future__ import annotations

import numpy as np

from shortlist.export.onnx import CalibratedRanker, export_ranker, export_student, export_user
from shortlist.export.parity import check_parity, compare_quantized, random_inputs
from shortlist.export.quantize import count_qdq, quantize_student
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.models.student import Student
from shortlist.training.student import Distillation

CALIBRATION_REQUESTS = 64  # of the distillation, whose candidates calibrate INT8
COMPARED_REQUESTS = 200
SIZES = {"batch": 8, "history": 20, "candidates": 100, "pairs": 800}


def export_graphs(
    retriever: Retriever, ranker: Ranker, student: Student, data: Distillation, rank_depth: int
) -> tuple[dict[str, bytes], dict[str, float]]:
    """Graphs `user`, `filter` (INT8) and `ranker`, and the parity of each with its module.

    Raises BundleError when a graph differs from its torch module by more than 1e-4.
    """
    side = data.requests.side.shape[1]
    user = export_user(retriever.user_module, retriever.history_vectors().shape[1], side)
    ranked = export_ranker(ranker)
    exact = export_student(student)
    sizes = SIZES
    parity = {
        "user: torch - onnx": check_parity(retriever.user_module, user, random_inputs(user, sizes)),
        "ranker: torch - onnx": check_parity(CalibratedRanker(ranker), ranked, random_inputs(ranked, sizes)),
        "filter: torch - onnx": check_parity(student, exact, random_inputs(exact, sizes)),
    }
    everything = np.arange(len(data))
    calibration = data.features(everything[-CALIBRATION_REQUESTS:])
    quantized = quantize_student(exact, calibration.reshape(-1, calibration.shape[-1]))
    compared = compare_quantized(exact, quantized, data.features(everything[:COMPARED_REQUESTS]), rank_depth)
    parity |= {
        "filter: int8 overlap": compared.overlap,
        "filter: int8 correlation": compared.correlation,
        "filter: q/dq nodes": count_qdq(quantized),
    }
    return {"user": user, "filter": quantized, "ranker": ranked}, parity
