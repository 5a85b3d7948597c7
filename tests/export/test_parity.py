"""A graph that differs from its module is noticed."""

import numpy as np
import pytest
import torch

from shortlist.errors import BundleError
from shortlist.export.onnx import StudentHead, export_student
from shortlist.export.parity import check_difference, check_parity, compare_quantized, overlap, random_inputs
from shortlist.models.student import Student


def test_a_graph_of_other_weights_is_refused() -> None:
    torch.manual_seed(0)
    student = Student(8, (4,))
    graph = export_student(student)
    with torch.no_grad():
        for parameter in student.mlp.parameters():
            parameter.add_(0.01)
    with pytest.raises(BundleError, match="differs from StudentHead"):
        check_parity(StudentHead(student), graph, random_inputs(graph, {"pairs": 50}))


def test_a_score_that_is_not_a_number_is_refused() -> None:
    student = Student(8, (4,))
    graph = export_student(student)
    inputs = {"features": np.full((2, 8), np.nan, np.float32), "linear": np.zeros(2, np.float32)}
    with pytest.raises(BundleError, match="differs"):
        check_parity(StudentHead(student), graph, inputs)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(BundleError, match=r"returns shape \(3,\), the module \(2,\)"):
        check_difference(np.zeros(2, np.float32), np.zeros(3, np.float32), "Student")


def test_overlap_counts_the_shared_best() -> None:
    first = np.arange(10, dtype=np.float32)[None]
    assert overlap(first, first, 4) == 1.0
    assert overlap(first, -first, 4) == 0.0
    assert overlap(first, np.roll(first, -2), 4) == 0.5


def test_padding_counts_neither_for_the_correlation_nor_for_the_difference() -> None:
    before = np.array([[1.0, 2.0, 3.0, -np.inf], [4.0, 5.0, -np.inf, -np.inf]], np.float32)
    report = compare_quantized(before, before + np.float32(0.5), 2)
    assert (report.overlap, report.max_difference) == (1.0, 0.5)
    assert report.correlation == pytest.approx(1)
