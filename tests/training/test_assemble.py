"""Constants that go into a bundle are finite whatever the log."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from shortlist.data.log import InteractionLog
from shortlist.training.assemble import _known_until_ms, _scale, diversity_arrays


def test_a_stage_without_any_score_has_a_neutral_scale() -> None:
    assert _scale(np.full((2, 3), -np.inf, np.float32)) == [0.0, 1.0]
    assert _scale(np.array([[1.0, 3.0, -np.inf]], np.float32)) == [2.0, 1.0]


def test_sparse_content_diversifies_as_dense_content_does() -> None:
    rng = np.random.default_rng(0)
    content = np.eye(50, dtype=np.float32)[rng.integers(0, 30, 400)]
    vectors = rng.standard_normal((400, 8)).astype(np.float32)
    both = (diversity_arrays(vectors, c, 0)["diversity_items"] for c in (content, csr_matrix(content)))
    dense, kept = (items.astype(np.float32) for items in both)
    np.testing.assert_allclose(kept @ kept.T, dense @ dense.T, atol=3e-3)


def test_a_bundle_knows_until_its_newest_event() -> None:
    users, rows, people = [0, 0, 1], [0, 1, 0], {"user_ids": ["a", "b"], "item_ids": ["i", "j"]}
    timed = InteractionLog.from_arrays(users, rows, timestamps=[30, 10, 20], **people)
    assert _known_until_ms(timed) == 30_000


def test_a_bundle_of_data_without_time_does_not_say_until_when_it_knows() -> None:
    untimed = InteractionLog.from_arrays([0, 0], [0, 1], user_ids=["a"], item_ids=["i", "j"])
    assert _known_until_ms(untimed) == 0
