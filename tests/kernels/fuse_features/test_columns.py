"""The constants of a column do what standardising, clipping and a linear layer do."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.kernels.fuse_features import fuse_features, make_columns
from shortlist.types import Float32

WIDTH, CLIP = 6, 4.0
MEAN, DEVIATION, WEIGHT = (np.random.default_rng(i).uniform(0.5, 2, WIDTH).astype(np.float32) for i in range(3))


def fused(items: np.ndarray, dtype: str, item_scale: Float32 | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Features [M, W] and linear part [M] of all items, for a user without a vector."""
    rows = np.arange(len(items), dtype=np.int32)[None]
    nothing = np.zeros((1, 0), np.float32)
    columns = make_columns(MEAN, DEVIATION, WEIGHT, 0.5, CLIP, dtype, item_scale)
    features, linear = fuse_features(items, rows, nothing, np.zeros((*rows.shape, 0), np.float32), nothing, columns)
    return features[0], linear[0]


@pytest.fixture
def items() -> Float32:
    return np.random.default_rng(3).normal(size=(100, WIDTH)).astype(np.float32) * 5


def test_floats_are_standardised_and_clipped(items: Float32) -> None:
    expected = np.clip((items - MEAN) / DEVIATION, -CLIP, CLIP)
    np.testing.assert_allclose(fused(items, "float32")[0], expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", 0)])
def test_integers_are_half_a_step_away_at_most(items: Float32, dtype: str, zero: int) -> None:
    step = CLIP / 127
    numbers = (fused(items, dtype)[0].astype(np.float32) - zero) * step
    assert np.abs(numbers - fused(items, "float32")[0]).max() <= step * 0.501


def test_the_linear_part_is_not_clipped(items: Float32) -> None:
    expected = (items - MEAN) / DEVIATION @ WEIGHT + 0.5
    np.testing.assert_allclose(fused(items, "uint8")[1], expected, rtol=1e-5, atol=1e-4)


def test_scaled_integers_are_worth_what_they_stand_for(items: Float32) -> None:
    scale = (np.abs(items).max(axis=0) / 127).astype(np.float32)
    integers = np.rint(items / scale).astype(np.int8)
    features, linear = fused(integers, "float32", scale)
    expected_features, expected_linear = fused(integers * scale, "float32")
    np.testing.assert_allclose(features, expected_features, atol=1e-5)
    np.testing.assert_allclose(linear, expected_linear, rtol=1e-5, atol=1e-4)
