"""The student repeats its teacher: exactly where the teacher is linear, closely where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shortlist.data.splits import Examples
from shortlist.models.student import pruned
from shortlist.training.negatives import retrieve
from shortlist.training.student import (
    Distillation,
    distillation_loss,
    fine_tune,
    retention,
    student_features,
    train_student,
)
from shortlist.types import Float32
from tests.ranking import ITEMS, FixedRetriever, noise_features, walking_log

DIM, DEPTH = 6, 24


def requests(bent: bool) -> Distillation:
    """Requests whose teacher is the retrieval score plus item features, and, when `bent`, an interaction of vectors."""
    rng = np.random.default_rng(0)
    examples = Examples.every(walking_log())
    found = retrieve(examples, FixedRetriever(signal=1.0), depth=DEPTH, length=5, mask_seen=True)
    users, items, features = rng.normal(size=(len(found), DIM)), rng.normal(size=(ITEMS, DIM)), noise_features()
    rows = np.maximum(found.rows, 0)
    teacher = found.channels.sum(axis=-1) + features[rows].sum(axis=-1)
    if bent:
        teacher = teacher + 2 * np.abs(users[:, None, 0] * items[rows][:, :, 0])
    return Distillation(found, teacher.astype(np.float32), users.astype(np.float32), items.astype(np.float32), features)


def train(data: Distillation, epochs: int):
    return train_student(data, hidden=(16,), epochs=epochs, learning_rate=0.01, show_progress=False)


def test_a_linear_teacher_is_copied() -> None:
    data = requests(bent=False)
    student, report = train(data, epochs=3)
    scores = data.scores(student, np.arange(len(data)))
    assert retention(scores, data.teacher, keep=10) > 0.99
    assert report.retention >= report.retrieval_retention


def test_distillation_learns_what_is_not_linear() -> None:
    data = requests(bent=True)
    before, after = (train(data, epochs=epochs)[1].retention for epochs in (0, 12))
    assert after > before + 0.02


def test_a_seed_gives_the_same_student_again() -> None:
    first, second = (train(requests(bent=True), epochs=2)[0].state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=0, rtol=0)


def test_features_come_in_the_order_that_serving_uses() -> None:
    row = student_features(
        np.array([[2.0, 3.0]], np.float32), np.array([[[5.0, 7.0]]], np.float32), np.array([[[11.0]]], np.float32),
        np.array([[[13.0, 17.0]]], np.float32), np.array([[19.0]], np.float32),
    )  # fmt: skip
    np.testing.assert_array_equal(row, np.array([[[10, 21, 11, 13, 17, 19]]], np.float32))


def test_the_loss_is_zero_only_for_the_teachers_distribution() -> None:
    teacher, real = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert distillation_loss(teacher + 5, teacher, real, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(-teacher, teacher, real, 2.0).item() > 0.1


def test_padding_does_not_reach_the_loss() -> None:
    teacher = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, -50.0]])
    student = torch.tensor([[0.5, 2.0, 1.0], [0.5, 2.0, 99.0]], requires_grad=True)
    distillation_loss(student, teacher, torch.tensor([[True] * 3, [True, True, False]]), 2.0).backward()
    assert student.grad is not None
    assert student.grad[1, 2] == 0


def test_a_teacher_that_pads_with_minus_infinity_teaches_finite_scores() -> None:
    """A catalogue smaller than the number of candidates, or a long history, leaves requests with padding."""
    data = requests(bent=False)
    rows = data.requests.rows.copy()
    rows[::2, -8:] = -1
    teacher = np.where(rows >= 0, data.teacher, -np.inf).astype(np.float32)
    padded = replace(data, requests=replace(data.requests, rows=rows), teacher=teacher)
    student, report = train(padded, epochs=1)
    with torch.no_grad():
        assert torch.isfinite(student(torch.from_numpy(padded.features(np.arange(4))).flatten(0, 1))).all()
    assert report.retention > 0.9


def test_retention_counts_what_survives_the_cut() -> None:
    teacher = np.arange(20, dtype=np.float32)[None]
    assert retention(teacher, teacher, keep=10) == 1.0
    assert retention(-teacher, teacher, keep=10) == 0.0
    half: Float32 = np.where(teacher >= 15, 1.0, np.where(teacher < 5, 0.5, 0.0))
    assert retention(half, teacher, keep=10) == 0.5


def test_a_column_that_was_constant_in_training_cannot_blow_up_a_score() -> None:
    data = requests(bent=True)
    student, _ = train(data, epochs=1)
    usual = data.features(np.array([0]))
    unusual = usual.copy()
    unusual[..., -1] += 1.0  # the side feature is always 0 in training
    with torch.no_grad():
        change = student(torch.from_numpy(unusual[0])) - student(torch.from_numpy(usual[0]))
    assert change.abs().max() < 1.0


def test_fine_tuning_makes_up_for_pruning() -> None:
    data, everyone = requests(bent=True), np.arange(len(requests(bent=True)))
    student = pruned(train(data, epochs=12)[0], torch.from_numpy(data.features(everyone)).flatten(0, 1), (4,))
    before = retention(data.scores(student, everyone), data.teacher, keep=10)
    fine_tune(student, data, epochs=6, learning_rate=0.01, show_progress=False)
    assert retention(data.scores(student, everyone), data.teacher, keep=10) > before + 0.01


def test_fine_tuning_leaves_frozen_parameters_alone() -> None:
    data = requests(bent=True)
    student, _ = train(data, epochs=1)
    student.mlp.requires_grad_(False)
    before = [parameter.clone() for parameter in student.mlp.parameters()]
    fine_tune(student, data, epochs=1, show_progress=False)
    for parameter, old in zip(student.mlp.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old, atol=0, rtol=0)


def test_progress_leaves_standard_output_to_json(capsys: pytest.CaptureFixture[str]) -> None:
    train_student(requests(bent=False), hidden=(4,), epochs=1)
    captured = capsys.readouterr()
    assert (captured.out, "filter" in captured.err) == ("", True)
