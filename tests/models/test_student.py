"""The student scores each row by itself and carries its own feature scaling."""

from pathlib import Path

import torch

from shortlist.models.student import CLIP, Student

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
