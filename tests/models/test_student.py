"""The student scores each row by itself and carries its own feature scaling."""

from pathlib import Path

import pytest
import torch

from shortlist.models.student import CLIP, Student, pruned

WIDTH = 12


def _student() -> Student:
    torch.manual_seed(0)
    student = Student(WIDTH, (16, 8))
    student.mean.copy_(torch.linspace(-1, 1, WIDTH))
    student.scale.copy_(torch.linspace(0.5, 2, WIDTH))
    torch.nn.init.normal_(student.skip.weight)
    return student.eval()


def test_a_score_does_not_depend_on_the_other_rows() -> None:
    student, features = _student(), torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(student(features[7:9]), student(features)[7:9], atol=1e-6, rtol=1e-6)


def test_one_score_a_row() -> None:
    assert _student()(torch.zeros(5, WIDTH)).shape == (5,)


def test_extreme_features_move_the_score_only_through_the_linear_part() -> None:
    student = _student()
    far, farther = (student.mean + student.scale * deviations for deviations in (10.0, 20.0))
    by_linear = student.skip.weight.sum() * 10.0
    difference = student(farther[None]) - student(far[None])
    torch.testing.assert_close(difference, by_linear[None], atol=1e-3, rtol=1e-4)


def test_the_head_finishes_what_scaling_and_the_linear_part_begin() -> None:
    student, features = _student(), torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1)) * 5
    scaled = (features - student.mean) / student.scale
    found = student.head(scaled.clamp(-CLIP, CLIP), student.skip(scaled).squeeze(-1))
    torch.testing.assert_close(found, student(features), atol=0, rtol=0)


def test_a_saved_student_scores_as_before(tmp_path: Path) -> None:
    student, features = _student(), torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1))
    student.save(tmp_path)
    torch.testing.assert_close(Student.load(tmp_path)(features), student(features), atol=0, rtol=0)


def test_units_that_never_change_can_be_pruned_without_a_trace() -> None:
    student, features = _student(), torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in (student.mlp[0], student.mlp[2]):
            layer.weight[1::2] = 0.0
            layer.bias[1::2] = 3.0
    change = pruned(student, features, (8, 4))(features) - student(features)
    torch.testing.assert_close(change, change[:1].expand(200), atol=1e-4, rtol=0)


def test_the_units_that_matter_least_are_pruned_first() -> None:
    student, features = _student(), torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        student.mlp[0].weight[:4] *= 10
    kept = pruned(student, features, (4, 8)).mlp[0].weight
    torch.testing.assert_close(kept, student.mlp[0].weight[:4], atol=0, rtol=0)


def test_pruning_nothing_changes_nothing() -> None:
    student, features = _student(), torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pruned(student, features, (16, 8))(features), student(features), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("hidden", [(8,), (17, 8), (8, 0)])
def test_layers_that_the_student_does_not_have_are_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 layers"):
        pruned(_student(), torch.zeros(3, WIDTH), hidden)
