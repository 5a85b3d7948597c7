"""Sixteen lanes compute what NumPy computes in the same order, and never touch what lies beyond a row."""

import mmap

import numpy as np
import pytest
from numba import njit

from shortlist.kernels.lanes import (
    at_least,
    broadcast,
    dot,
    fold,
    larger,
    largest,
    load,
    lowest_bit,
    smaller,
    stack,
    store,
    total,
)
from shortlist.kernels.numerics import lane_dot


@njit
def _dots(left, right, out):
    for row in range(len(left)):
        out[row] = dot(left, row, right, row)


@njit
def _sixteen_totals(table, out):
    lines = (load(table, 0, 0), load(table, 1, 0), load(table, 2, 0), load(table, 3, 0))
    a = fold(fold(lines[0], lines[1], 16), fold(lines[2], lines[3], 16), 8)
    store(out, 0, 0, fold(fold(a, a, 4), fold(a, a, 4), 2))
    for row in range(4):
        out[1, row] = total(load(table, row, 0))


@njit
def _extremes(table, out):
    store(out, 0, 0, larger(load(table, 0, 0), broadcast(0.5)))
    store(out, 1, 0, smaller(load(table, 0, 0), broadcast(0.5)))
    return largest(load(table, 0, 0)), at_least(load(table, 0, 0), broadcast(0.5))


@njit
def _twice_on_the_stack(values):
    scratch = stack(2, 32, np.float32)
    for i in range(len(values)):
        scratch[1, i] = values[i]
    result = 0.0
    for i in range(len(values)):
        result += 2 * scratch[1, i]
    return result


_lowest_bit = njit(lambda bits: lowest_bit(np.uint64(bits)))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _before_forbidden_memory(values: np.ndarray) -> np.ndarray:
    """A copy of `values` that ends where the process may not read."""
    import ctypes

    page = mmap.PAGESIZE
    room = -(-values.nbytes // page) * page
    memory = mmap.mmap(-1, room + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, values.dtype, values.size, room - values.nbytes).reshape(values.shape)
    copy[:] = values
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dim", [1, 15, 16, 31, 33, 64, 100])
def test_a_dot_product_has_every_bit_of_the_reference(dim: int, dtype: str) -> None:
    left, right = np.random.default_rng(dim).normal(size=(2, 50, dim)).astype(dtype)
    found = np.empty(50, np.float32)
    _dots(_bits(left), _bits(right), found)
    assert np.array_equal(found, lane_dot(left, right))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_is_read_beyond_the_last_row(dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(3, 21)).astype(dtype)
    edge, found = _before_forbidden_memory(values), np.empty(3, np.float32)
    _dots(_bits(edge), _bits(edge), found)
    assert np.array_equal(found, lane_dot(values, values))


def test_rows_may_be_any_distance_apart() -> None:
    table = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    found = np.empty(4, np.float32)
    _dots(table[::2, :20], table[::-2, 3:23], found)
    assert np.array_equal(found, lane_dot(table[::2, :20], table[::-2, 3:23]))


def test_folding_gives_the_totals_of_several_vectors_in_order() -> None:
    out = np.zeros((2, 16), np.float32)
    _sixteen_totals(np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32), out)
    assert np.array_equal(out[0, :4], out[1, :4])


def test_comparisons_are_those_of_each_lane() -> None:
    values = np.random.default_rng(0).random((1, 16)).astype(np.float32)
    out = np.zeros((2, 16), np.float32)
    top, bits = _extremes(values, out)
    expected = [np.maximum(values[0], 0.5), np.minimum(values[0], 0.5)]
    assert top == values.max()
    assert np.array_equal(out, expected)
    assert [bits >> lane & 1 for lane in range(16)] == (values[0] >= 0.5).tolist()


def test_not_a_number_is_never_larger_nor_reaches_anything() -> None:
    out = np.zeros((2, 16), np.float32)
    _, bits = _extremes(np.full((1, 16), np.nan, np.float32), out)
    assert (out[0] == 0.5).all()
    assert bits == 0


@pytest.mark.parametrize("bit", [0, 17, 63])
def test_the_lowest_bit_is_found(bit: int) -> None:
    assert _lowest_bit((1 << 63) | (1 << bit)) == bit


def test_scratch_on_the_stack_keeps_what_is_written() -> None:
    assert _twice_on_the_stack(np.arange(32, dtype=np.float32)) == 2 * sum(range(32))
