"""What serving makes of a student's input is what the student was trained on, up to the rounding of the item table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from shortlist.export.onnx import export_student
from shortlist.export.parity import check_difference, run_graph
from shortlist.models.student import Student
from shortlist.training.filter import FilterInput, filter_input, quantized_table
from shortlist.training.student import Distillation
from tests.training.test_student import DIM, requests

INDEX = np.arange(20)


@pytest.fixture(scope="module")
def data() -> Distillation:
    return requests(bent=True)


@pytest.fixture(scope="module")
def student(data: Distillation) -> Student:
    torch.manual_seed(0)
    features = data.features(INDEX)
    student = Student(features.shape[-1], (16,))
    nn.init.normal_(student.skip.weight)
    student.mean.copy_(torch.from_numpy(features.mean(axis=(0, 1))))
    student.scale.copy_(torch.from_numpy(features.std(axis=(0, 1)) + 0.1))
    return student.eval()


@pytest.fixture(scope="module", params=["float16", "int8"])
def given(request: pytest.FixtureRequest, student: Student, data: Distillation) -> FilterInput:
    return filter_input(student, data.item_vectors, data.item_features, request.param)


def test_kernel_and_graph_score_as_torch_does_on_raw_features(
    given: FilterInput, student: Student, data: Distillation
) -> None:
    found = run_graph(export_student(student), given.in_float(student).inputs(data, INDEX))
    expected = given.rounded(data).scores(student, INDEX)
    real = np.isfinite(expected)
    assert check_difference(expected[real], found.reshape(expected.shape)[real], "Student") <= 1e-4


def test_rounding_the_table_hardly_changes_a_score(given: FilterInput, student: Student, data: Distillation) -> None:
    before, after = data.scores(student, INDEX), given.rounded(data).scores(student, INDEX)
    real = np.isfinite(before)
    assert np.corrcoef(before[real], after[real])[0, 1] > 0.9999


def test_padding_has_no_linear_part_but_minus_infinity(given: FilterInput, data: Distillation) -> None:
    padded = data.requests.rows[INDEX] < 0
    assert np.isneginf(given.inputs(data, INDEX)["linear"].reshape(padded.shape)).tolist() == padded.tolist()


def test_int8_is_half_a_step_away_at_most() -> None:
    table = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32) * np.arange(DIM, dtype=np.float32)
    items, scale = quantized_table(table)
    assert (np.abs(items * scale - table) <= scale * 0.501).all()


def test_a_number_too_large_for_half_precision_is_cut_off(student: Student, data: Distillation) -> None:
    features = data.item_features.copy()
    features[0, 0] = 1e6
    items = filter_input(student, data.item_vectors, features).items
    assert items[0, DIM] == np.finfo(np.float16).max
