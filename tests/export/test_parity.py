"""A graph that differs from its module is noticed."""

import numpy as np
import pytest
import torch

from shortlist.errors import BundleError
from shortlist.export.onnx import export_student
from shortlist.export.parity import check_parity, overlap, random_inputs
from shortlist.models.student import Student


def test_a_graph_of_other_weights_is_refused() -> None:
    torch.manual_seed(0)
    student = Student(8, (4,))
    graph = export_student(student)
    with torch.no_grad():
        student.skip.weight.add_(0.01)
    with pytest.raises(BundleError, match="differs from Student"):
        check_parity(student, graph, random_inputs(graph, {"pairs": 50}))


def test_a_score_that_is_not_a_number_is_refused() -> None:
    student = Student(8, (4,))
    graph = export_student(student)
    inputs = {"features": np.full((2, 8), np.nan, np.float32)}
    with pytest.raises(BundleError, match="differs"):
        check_parity(student, graph, inputs)


def test_overlap_counts_the_shared_best() -> None:
    first = np.arange(10, dtype=np.float32)[None]
    assert overlap(first, first, 4) == 1.0
    assert overlap(first, -first, 4) == 0.0
    assert overlap(first, np.roll(first, -2), 4) == 0.5
