"""Exported graphs compute what the modules compute, at any size of batch, history and candidates."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from shortlist.export.onnx import CalibratedRanker, StudentHead, export_ranker, export_student, export_user
from shortlist.export.parity import check_parity, random_inputs, run_graph
from shortlist.models.ranker import Ranker
from shortlist.models.student import Student

SIZES = [
    {"batch": 1, "history": 1, "candidates": 1, "pairs": 1},
    {"batch": 2, "history": 50, "candidates": 100, "pairs": 500},
    {"batch": 16, "history": 3, "candidates": 7, "pairs": 33},
]


def _name(sizes: dict[str, int]) -> str:
    return "-".join(f"{axis[0].upper()}{size}" for axis, size in sizes.items())


class LastItem(nn.Module):
    """A user tower as simple as can be: the last vector of the history plus the side features."""

    def forward(self, history: Tensor, lengths: Tensor, side: Tensor) -> Tensor:
        place = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, history.shape[2])
        return history.gather(1, place)[:, 0] + side.sum(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def ranker() -> tuple[Ranker, bytes]:
    torch.manual_seed(0)
    ranker = Ranker(10, 16, 6, 3, heads=2, hidden=8, dropout=0.2)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ranker.platt.copy_(torch.tensor([0.7, -1.0]))
    ranker.mean.normal_()
    ranker.scale.uniform_(0.5, 2.0)
    return ranker, export_ranker(ranker)


@pytest.fixture(scope="module")
def student() -> tuple[Student, bytes]:
    torch.manual_seed(0)
    student = Student(24, (32, 16))
    return student, export_student(student)


@pytest.mark.parametrize("sizes", SIZES, ids=_name)
def test_the_ranker_is_the_same_in_onnx(ranker: tuple[Ranker, bytes], sizes: dict[str, int]) -> None:
    assert check_parity(CalibratedRanker(ranker[0]), ranker[1], random_inputs(ranker[1], sizes)) <= 1e-4


@pytest.mark.parametrize("sizes", SIZES, ids=_name)
def test_the_student_is_the_same_in_onnx(student: tuple[Student, bytes], sizes: dict[str, int]) -> None:
    assert check_parity(StudentHead(student[0]), student[1], random_inputs(student[1], sizes)) <= 1e-4


@pytest.mark.parametrize("sizes", SIZES, ids=_name)
def test_a_user_tower_is_the_same_in_onnx(sizes: dict[str, int]) -> None:
    graph = export_user(LastItem(), 16, 3)
    assert check_parity(LastItem(), graph, random_inputs(graph, sizes)) <= 1e-4


def test_permuted_candidates_keep_their_scores_in_onnx(ranker: tuple[Ranker, bytes]) -> None:
    inputs = random_inputs(ranker[1], SIZES[1])
    moved = {
        **inputs,
        "candidates": inputs["candidates"][:, ::-1].copy(),
        "features": inputs["features"][:, ::-1].copy(),
    }
    difference = run_graph(ranker[1], moved)[:, ::-1] - run_graph(ranker[1], inputs)
    assert abs(difference).max() < 1e-6


def test_a_missing_candidate_stays_minus_infinity(student: tuple[Student, bytes]) -> None:
    inputs = random_inputs(student[1], SIZES[1])
    inputs["linear"][3] = -np.inf
    assert np.flatnonzero(np.isneginf(run_graph(student[1], inputs))).tolist() == [3]


def test_ranker_scores_are_probabilities(ranker: tuple[Ranker, bytes]) -> None:
    scores = run_graph(ranker[1], random_inputs(ranker[1], SIZES[1]))
    assert ((scores >= 0) & (scores <= 1)).all()


def test_graphs_state_their_opset_and_hold_no_item_table(ranker: tuple[Ranker, bytes]) -> None:
    graph = onnx.load_from_string(ranker[1])
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == 18
    assert all(10 not in tensor.dims for tensor in graph.graph.initializer)


def test_graphs_do_not_tell_where_they_were_made(ranker: tuple[Ranker, bytes]) -> None:
    assert b".py" not in ranker[1]


def test_the_ranker_stays_a_small_graph(ranker: tuple[Ranker, bytes]) -> None:
    assert len(onnx.load_from_string(ranker[1]).graph.node) < 100


def test_exporting_leaves_the_module_as_it_was(ranker: tuple[Ranker, bytes]) -> None:
    ranker[0].train()
    export_ranker(ranker[0])
    assert ranker[0].training
