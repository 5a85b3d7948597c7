"""Constants that go into a bundle are finite whatever the log."""

from __future__ import annotations

import numpy as np

from shortlist.training.assemble import _scale


def test_a_stage_without_any_score_has_a_neutral_scale() -> None:
    assert _scale(np.full((2, 3), -np.inf, np.float32)) == [0.0, 1.0]
    assert _scale(np.array([[1.0, 3.0, -np.inf]], np.float32)) == [2.0, 1.0]
