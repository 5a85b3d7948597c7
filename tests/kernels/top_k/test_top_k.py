"""The fast top-k finds what the obvious one finds, whatever the values, and takes no memory for it."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shortlist.kernels import top_k
from shortlist.kernels.top_k import cpu, warm_up
from shortlist.kernels.top_k.benchmark import cases
from shortlist.kernels.top_k.reference import top_k_reference

SHAPES = st.tuples(st.integers(0, 3), st.integers(0, 70))
ANY_VALUES = st.floats(width=32, allow_nan=True, allow_infinity=True)
FEW_VALUES = st.sampled_from([np.nan, -np.inf, np.inf, -0.0, 0.0, 1.0, -1.0, 2.0**-149])


def _same(values: np.ndarray, k: int) -> bool:
    return np.array_equal(top_k(values, k), top_k_reference(values, k))


@given(arrays(np.float32, SHAPES, elements=ANY_VALUES), st.integers(1, 80))
def test_equals_the_reference(values: np.ndarray, k: int) -> None:
    assert _same(values, k)


@given(arrays(np.float32, SHAPES, elements=FEW_VALUES, fill=st.nothing()), st.integers(1, 80))
def test_ties_nan_zeros_and_infinities_equal_the_reference(values: np.ndarray, k: int) -> None:
    assert _same(values, k)


@given(arrays(np.uint32, st.tuples(st.just(1), st.integers(1, 300))), st.integers(1, 300))
def test_every_bit_pattern_is_ordered(bits: np.ndarray, k: int) -> None:
    assert _same(bits.view(np.float32), k)


@pytest.mark.parametrize("k", [1, 100, 2048, 2049, 4100])
@pytest.mark.parametrize("count", [4095, 4096, 4097, 4161, 9000])
@pytest.mark.parametrize("distinct", [2, 50, 1_000_000], ids=["two values", "fifty values", "hardly any ties"])
def test_more_values_than_fit_on_the_stack(count: int, k: int, distinct: int) -> None:
    values = np.random.default_rng(count).integers(0, distinct, (2, count)).astype(np.float32)
    values[:, ::7] = np.nan
    assert _same(values, k)


@pytest.mark.parametrize("slope", [1, -1, 0], ids=["ascending", "descending", "equal"])
def test_order_of_arrival_does_not_matter(slope: int) -> None:
    assert _same(slope * np.arange(20_000, dtype=np.float32)[None], 500)


def test_nothing_but_nan_gives_the_first_positions() -> None:
    assert top_k(np.full((1, 5000), np.nan, np.float32), 3).tolist() == [[0, 1, 2]]


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60))
def test_the_values_found_are_those_of_a_sort(seed: int, count: int, k: int) -> None:
    values = np.random.default_rng(seed).normal(size=(1, count)).astype(np.float32)
    found = values[0, top_k(values, min(k, count))[0]]
    assert np.array_equal(found, np.sort(values[0])[::-1][:k])


@pytest.mark.parametrize("view", [np.s_[:, ::3], np.s_[::-1, ::-1], np.s_[:, 5:50], np.s_[1:1]])
def test_rows_may_be_strided(view: Any) -> None:
    values = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    assert _same(values[view], 10)


def test_a_given_array_takes_the_result_and_nothing_is_allocated() -> None:
    warm_up()
    values, out = np.random.default_rng(0).random((4, 100_000), np.float32), np.empty((4, 500), np.int32)
    top_k(values, 500, out=out)
    tracemalloc.start()
    assert top_k(values, 500, out=out) is out
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1000  # bytes: views and numbers, no arrays
    assert np.array_equal(out, top_k_reference(values, 500))


def test_after_warming_up_nothing_is_compiled() -> None:
    warm_up()
    known = len(cpu._each_row.signatures)
    values = np.zeros((2, 30), np.float32)
    frozen = np.frombuffer(values.tobytes(), np.float32).reshape(2, 30)
    for rows in (values, frozen, values[:, ::2], frozen[:, ::2]):
        top_k(rows, 3)
        top_k(rows, 3, out=np.empty((2, 3), np.int32))
    assert len(cpu._each_row.signatures) == known


def test_torch_gives_torch() -> None:
    positions = top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2)
    assert isinstance(positions, torch.Tensor)
    assert positions.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("values", "k", "out", "error", "message"),
    [
        (np.zeros((1, 2)), 1, None, TypeError, "values: dtype is float64; float32 is allowed"),
        (np.zeros(2, np.float32), 1, None, ValueError, r"values: shape is \(2,\); \[B, N\]"),
        (np.zeros((1, 2), np.float32), 0, None, ValueError, "k is 0; at least 1 is allowed"),
        ([[1.0]], 1, None, TypeError, "list is no array"),
        (np.zeros((1, 2), np.float32), 2, np.zeros((1, 2)), TypeError, "out: is float64 of ndarray; int32 of ndarray"),
        (np.zeros((1, 2), np.float32), 2, np.zeros((1, 3), np.int32), ValueError, r"out: shape is \(1, 3\); \[1, 2\]"),
        (np.zeros((2, 2), np.float32), 2, np.zeros((2, 4), np.int32)[:, ::2], ValueError, r"contiguous and writable"),
    ],
    ids=["dtype", "shape", "k", "no array", "dtype of out", "shape of out", "strided out"],
)
def test_what_cannot_be_is_refused_by_name(values: Any, k: int, out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        top_k(values, k, out=out)


def test_an_out_in_the_memory_of_the_values_is_refused() -> None:
    values = np.zeros((2, 6), np.float32)
    with pytest.raises(ValueError, match="out: shares memory with values; memory of its own is allowed"):
        top_k(values, 3, out=values.view(np.int32).reshape(4, 3)[:2])


@pytest.mark.parametrize(("count", "k"), [(500, 100), (1682, 500)])
def test_all_rivals_of_the_benchmark_find_the_same(count: int, k: int) -> None:
    found = {name: np.array(case()) for name, case in cases(2, count, k).items()}
    assert np.array_equal(found["shortlist"], found["numpy"])
    assert np.array_equal(found["shortlist"], found["torch"])


def test_a_k_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match="an integer is allowed"):
        top_k(np.zeros((1, 4), np.float32), 2.5)
