"""Constants that go into a bundle are finite whatever the log."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from shortlist.training.assemble import _scale, diversity_vectors


def test_a_stage_without_any_score_has_a_neutral_scale() -> None:
    assert _scale(np.full((2, 3), -np.inf, np.float32)) == [0.0, 1.0]
    assert _scale(np.array([[1.0, 3.0, -np.inf]], np.float32)) == [2.0, 1.0]


def test_sparse_content_diversifies_as_dense_content_does() -> None:
    rng = np.random.default_rng(0)
    content = np.eye(50, dtype=np.float32)[rng.integers(0, 30, 400)]
    vectors = rng.standard_normal((400, 8)).astype(np.float32)
    dense, kept = (diversity_vectors(vectors, c, 0) for c in (content, csr_matrix(content)))
    np.testing.assert_allclose(kept @ kept.T, dense @ dense.T, atol=1e-3)
