"""The filter that is exported chooses what the trained student chooses, and training says by how much it does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from shortlist.errors import BundleError
from shortlist.export.parity import overlap, run_graph
from shortlist.models.student import Student
from shortlist.training.filter import FilterInput, filter_input
from shortlist.training.graphs import export_filter
from shortlist.training.student import Distillation
from tests.training.test_student import requests, train

INDEX, KEPT = np.arange(40), 12
Exported = tuple[Student, FilterInput, bytes, dict[str, float]]


@pytest.fixture(scope="module")
def data() -> Distillation:
    return requests(bent=True)


@pytest.fixture(scope="module", params=["float16", "int8"])
def exported(request: pytest.FixtureRequest, data: Distillation) -> Exported:
    student, _ = train(data, epochs=3)
    given = filter_input(student, data.item_vectors, data.item_features, request.param)
    return student, given, *export_filter(student, given, data, INDEX, KEPT)


def test_parity_is_reported_and_good(exported: Exported) -> None:
    parity = exported[3]
    assert parity["filter: torch - onnx"] <= 1e-4
    assert parity["filter: item table overlap"] >= 0.98
    assert parity["filter: int8 overlap"] >= 0.98


def test_the_exported_filter_keeps_what_the_student_keeps(exported: Exported, data: Distillation) -> None:
    student, given, graph, _ = exported
    trained = data.scores(student, INDEX)
    served = run_graph(graph, given.inputs(data, INDEX)).reshape(trained.shape)
    assert overlap(trained, served, KEPT) >= 0.98


def test_constants_of_another_student_are_refused(exported: Exported, data: Distillation) -> None:
    student, given, *_ = exported
    other = Student(student.settings["width"], (16,)).eval()
    mixed = MixedUp(given.items, given.item_scale, given.columns, other)
    with pytest.raises(BundleError, match="differs from Student"):
        export_filter(student, mixed, data, INDEX, KEPT)


@dataclass(frozen=True, eq=False)
class MixedUp(FilterInput):
    """Always takes the constants of one student, whoever is asked about."""

    other: Student

    def in_float(self, student: Student) -> FilterInput:
        return FilterInput(self.items, self.item_scale, self.columns).in_float(self.other)
