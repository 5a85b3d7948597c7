"""The arithmetic that all versions repeat: near the true values, and in exactly the order that is promised."""

import math

import numpy as np
import pytest

from shortlist.kernels.numerics import lane_dot, log


@pytest.mark.parametrize("dim", [1, 15, 16, 17, 64, 100])
def test_an_inner_product_is_near_that_of_float64(dim: int) -> None:
    left, right = np.random.default_rng(dim).normal(size=(2, 50, dim)).astype(np.float32)
    exact = (left.astype(np.float64) * right).sum(axis=1)
    np.testing.assert_allclose(lane_dot(left, right), exact, atol=3e-7 * dim)


def test_sums_run_in_the_promised_order() -> None:
    tiny, huge = np.float32(1), np.float32(2**24)  # huge + tiny is huge, huge + 2 tiny is not
    columns = np.zeros(32, np.float32)
    columns[[0, 8, 16]] = huge, tiny, tiny
    assert lane_dot(columns, np.ones(32, np.float32)) == huge  # (huge + tiny of column 16) + tiny of lane 8
    columns[[0, 4, 8, 12, 16]] = huge, tiny, 0, tiny, 0
    assert lane_dot(columns, np.ones(32, np.float32)) == huge + 2  # lanes 4 and 12 meet before lane 0


def test_half_precision_is_widened_before_the_product() -> None:
    values = np.full(1, 300, np.float16)  # its square is beyond half precision
    assert lane_dot(values, values) == 90_000


def test_the_logarithm_is_within_two_ulp_over_all_magnitudes() -> None:
    x = np.exp2(np.random.default_rng(0).uniform(-126, 127, 100_000)).astype(np.float32)
    exact = np.log(x.astype(np.float64))
    assert (np.abs(log(x) - exact) <= np.maximum(2 * np.spacing(np.abs(exact).astype(np.float32)), 2e-7)).all()


@pytest.mark.parametrize("value", [1e-6, 0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 3.4e38])
def test_the_logarithm_of_landmarks(value: float) -> None:
    x = np.array([value], np.float32)
    assert log(x)[0] == pytest.approx(math.log(x[0]), abs=2e-7, rel=2e-7)
