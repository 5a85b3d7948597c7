"""MMR and DPP pick what their references pick, keep to the same interface, and refuse the same things."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.kernels.dpp import cpu as dpp_cpu
from shortlist.kernels.dpp import dpp
from shortlist.kernels.dpp.reference import dpp_reference
from shortlist.kernels.mmr import cpu as mmr_cpu
from shortlist.kernels.mmr import mmr
from shortlist.kernels.mmr.reference import mmr_reference
from tests.kernels.problems import Selection, distinct, draw


@dataclass(frozen=True)
class Method:
    """One of the two selections."""

    name: str
    select: Callable[..., Any]
    reference: Callable[..., Any]
    cpu: Any


METHODS = [Method("mmr", mmr, mmr_reference, mmr_cpu), Method("dpp", dpp, dpp_reference, dpp_cpu)]
both = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
SHAPES = [
    (1, 1, 1, 1),
    (2, 31, 33, 10),
    (3, 33, 31, 64),
    (1, 100, 64, 10),
    (2, 64, 100, 31),
    (5, 5, 3, 9),
    (1, 130, 16, 130),
]


def _same(method: Method, problem: Selection, **options: Any) -> bool:
    with np.errstate(all="ignore"):
        expected = problem.by(method.reference, **options)
    return np.array_equal(problem.by(method.select, **options), expected)


@both
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "B{}-N{}-D{}-K{}".format(*shape))
def test_equals_the_reference(method: Method, shape: tuple[int, int, int, int], dtype: str) -> None:
    assert _same(method, draw(0, *shape, dtype=dtype))


@both
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 70),
    dim=st.integers(1, 40),
    k=st.integers(1, 30),
    trade_off=st.sampled_from([0.0, 0.3, 0.7, 0.97, 1.0]),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_equals_the_reference_whatever_the_shape(
    method: Method, seed: int, count: int, dim: int, k: int, trade_off: float, missing: float
) -> None:
    problem = draw(seed, 2, count, dim, k, missing=missing)
    assert _same(method, problem.but(trade_off=np.full(2, trade_off, np.float32)))


@both
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), trade_off=st.sampled_from([0.0, 0.5, 1.0]))
def test_equal_values_go_to_the_lowest_position(method: Method, seed: int, trade_off: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 60)]  # inner products of 0 or 1
    relevance = rng.integers(0, 2, (1, 60)).astype(np.float32)
    rows = np.arange(60, dtype=np.int32)[None]
    assert _same(method, Selection(vectors, rows, relevance, np.array([trade_off], np.float32), 40))


@both
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e19, 3e38])
def test_vectors_of_any_length_equal_the_reference(method: Method, scale: float, dtype: str) -> None:
    problem = draw(1, 4, 50)
    with np.errstate(over="ignore"):
        vectors = (problem.items * np.float32(scale)).astype(dtype)
    assert _same(method, problem.but(items=vectors))


@both
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_vectors_that_are_not_finite_equal_the_reference(method: Method, seed: int) -> None:
    problem, rng = draw(seed, 3, 50, k=50), np.random.default_rng(seed)
    vectors = problem.items.copy()
    for value in (np.nan, np.inf, -np.inf):
        vectors[rng.integers(0, len(vectors), 3), rng.integers(0, 16, 3)] = value
    assert _same(method, problem.but(items=vectors))


@both
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
def test_pure_relevance_is_top_k(method: Method, seed: int, count: int) -> None:
    problem = distinct(seed, count).but(trade_off=np.ones(1, np.float32))
    best = np.argsort(-problem.relevance[0], kind="stable")[:10]
    assert problem.by(method.select)[0, : len(best)].tolist() == best.tolist()


@both
@given(seed=st.integers(0, 10_000))
def test_permuted_candidates_give_the_same_items(method: Method, seed: int) -> None:
    problem = distinct(seed)
    order = np.random.default_rng(seed).permutation(problem.rows.shape[1])
    permuted = problem.but(rows=problem.rows[:, order], relevance=problem.relevance[:, order])
    assert order[permuted.by(method.select)[0]].tolist() == problem.by(method.select)[0].tolist()


@both
@given(seed=st.integers(0, 10_000))
def test_a_duplicate_is_picked_last_when_novelty_counts(method: Method, seed: int) -> None:
    vectors = np.eye(8, dtype=np.float32)
    relevance = np.random.default_rng(seed).random((1, 8)).astype(np.float32)
    relevance[0, [0, 5]] = [0.99, 1.0]
    rows = np.array([[0, 1, 2, 3, 4, 0, 6, 7]], np.int32)  # position 5 is position 0 again
    problem = Selection(vectors, rows, relevance, np.array([0.2], np.float32), 8)
    assert problem.by(method.select)[0, [0, 7]].tolist() == [5, 0]


@both
def test_missing_candidates_may_hold_any_relevance(method: Method) -> None:
    problem = draw(3)
    noisy = np.where(problem.rows < 0, np.float32(np.nan), problem.relevance)
    assert np.array_equal(problem.but(relevance=noisy).by(method.select), problem.by(method.select))


@both
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cap=st.integers(1, 4))
def test_group_caps_equal_the_reference(method: Method, seed: int, cap: int) -> None:
    problem = draw(seed, 2, 40, k=25)
    groups = np.random.default_rng(seed).integers(-1, 4, len(problem.items)).astype(np.int32)
    assert _same(method, problem, groups=groups, max_per_group=cap)


@both
def test_a_slate_gets_shorter_rather_than_exceed_a_cap(method: Method) -> None:
    problem = distinct(0, 30, k=12)
    groups = (np.arange(len(problem.items)) % 3).astype(np.int32)
    picks = problem.by(method.select, groups=groups, max_per_group=2)[0]
    assert np.bincount(groups[problem.rows[0, picks[:6]]]).tolist() == [2, 2, 2]
    assert (picks[6:] == -1).all()


@both
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_relevance_that_is_not_finite_is_named(method: Method, value: float) -> None:
    problem = draw(0, missing=0)
    problem.relevance[2, 17] = value
    with pytest.raises(ValueError, match=rf"relevance\[2, 17\] = {value} is not finite"):
        problem.by(method.select)


@both
@pytest.mark.parametrize("row", [-2, 47, 2**31 - 1, -(2**31)])
def test_a_row_that_the_table_does_not_have_is_named(method: Method, row: int) -> None:
    problem = draw(0)
    problem.rows[1, 5] = row
    with pytest.raises(IndexError, match=rf"rows\[1, 5\] = {row}: -1 to 46 is allowed"):
        problem.by(method.select)


@both
@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_a_trade_off_outside_0_to_1_is_named(method: Method, value: float) -> None:
    problem = draw(0)
    problem.trade_off[1] = value
    with pytest.raises(ValueError, match=rf"trade_off\[1\] = {value}"):
        problem.by(method.select)


@both
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"items": np.ones((47, 16))}, TypeError, "items: dtype is float64; float32 or float16"),
        ({"items": np.ones(47, np.float32)}, ValueError, r"items: shape is \(47,\)"),
        ({"items": np.ones((16, 47), np.float32).T}, ValueError, "items: strides"),
        ({"items": [[1.0]]}, TypeError, "list is no array"),
        ({"rows": np.zeros((3, 40), np.int64)}, TypeError, "rows: dtype is int64; int32"),
        ({"rows": np.zeros((3, 1025), np.int32)}, ValueError, r"rows: shape is \(3, 1025\)"),
        ({"relevance": np.zeros((3, 39), np.float32)}, ValueError, r"relevance: shape is \(3, 39\); \(3, 40\)"),
        ({"trade_off": np.zeros(3)}, TypeError, "trade_off: dtype is float64; float32"),
        ({"k": 0}, ValueError, "k is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_named(
    method: Method, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw(0).but(**changes).by(method.select)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": np.zeros(46, np.int32), "max_per_group": 1}, r"groups: shape is \(46,\); \(47,\)"),
        ({"groups": np.zeros(47, np.int32)}, "max_per_group is 0; at least 1"),
        ({"max_per_group": 2}, "max_per_group is 2; 0 without groups"),
        ({"out": np.empty((3, 9), np.int32)}, r"out: shape is \(3, 9\); \(3, 10\)"),
        ({"threads": 0}, "threads is 0; at least 1"),
    ],
    ids=["groups", "no-cap", "no-groups", "out", "threads"],
)
def test_a_wrong_option_is_named(method: Method, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(0).by(method.select, **options)


@both
def test_a_read_only_out_is_refused(method: Method) -> None:
    out = np.empty((3, 10), np.int32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        draw(0).by(method.select, out=out)


@both
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"k": True}, {}, "k is True; an integer"),
        ({"k": 2.0}, {}, "k is 2.0; an integer"),
        ({}, {"groups": np.zeros(47, np.int32), "max_per_group": 1.5}, "max_per_group is 1.5; an integer"),
    ],
    ids=["bool", "float", "cap"],
)
def test_counts_are_integers(method: Method, changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        draw(0).but(**changes).by(method.select, **options)


@both
def test_an_out_in_the_memory_of_the_rows_is_refused(method: Method) -> None:
    memory = np.zeros((6, 40), np.int32)
    problem = draw(0, k=40).but(rows=memory[:3])
    with pytest.raises(ValueError, match="out: shares memory with rows"):
        problem.by(method.select, out=memory[2:5])


@both
def test_out_takes_the_picks(method: Method) -> None:
    problem, out = draw(0), np.empty((3, 20), np.int32)[:, ::2]
    assert problem.by(method.select, out=out) is out
    assert np.array_equal(out, problem.by(method.select))


@both
def test_threads_give_the_same_picks(method: Method) -> None:
    problem = draw(0, batch=7)
    assert np.array_equal(problem.by(method.select, threads=3), problem.by(method.select))


@both
def test_threads_refuse_what_one_thread_refuses(method: Method) -> None:
    problem = draw(0, batch=7)
    problem.rows[6, 1] = 999
    with pytest.raises(IndexError, match=r"rows\[6, 1\]"):
        problem.by(method.select, threads=3)


@both
def test_torch_tensors_give_a_torch_tensor(method: Method) -> None:
    problem = draw(0)
    arrays = (problem.items, problem.rows, problem.relevance, problem.trade_off)
    picks = method.select(*(torch.from_numpy(array) for array in arrays), problem.k)
    assert torch.equal(picks, torch.from_numpy(problem.by(method.select)))


@both
def test_a_torch_tensor_takes_the_picks(method: Method) -> None:
    problem, out = draw(0), torch.empty(3, 10, dtype=torch.int32)
    assert problem.by(method.select, out=out) is out
    assert np.array_equal(out.numpy(), problem.by(method.select))


@both
def test_tables_may_be_strided_mapped_and_read_only(method: Method, tmp_path: Path) -> None:
    problem = draw(0)
    wide = np.zeros((94, 50), np.float32)
    wide[::2, 3:19] = problem.items
    wide.tofile(tmp_path / "table")
    mapped = np.memmap(tmp_path / "table", np.float32, "r", shape=wide.shape)[::2, 3:19]
    assert np.array_equal(problem.but(items=mapped).by(method.select), problem.by(method.select))


@both
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_is_compiled_after_warm_up(method: Method, dtype: str, tmp_path: Path) -> None:
    method.cpu.warm_up()
    kernel, problem = method.cpu._kernel(dtype == "float16"), draw(0, dtype=dtype)
    before = len(kernel.signatures)
    problem.items.tofile(tmp_path / "table")
    mapped = np.memmap(tmp_path / "table", dtype, "r", shape=problem.items.shape)
    groups = np.zeros(len(mapped), np.int32)
    for items in (problem.items, mapped, mapped[:, :7], mapped[::-1]):
        problem.but(items=items).by(method.select)
        problem.but(rows=np.asfortranarray(problem.rows)).by(method.select, groups=groups[::1], max_per_group=3)
    assert len(kernel.signatures) == before == 1


@both
def test_with_out_nothing_that_grows_with_the_problem_is_allocated(method: Method) -> None:
    problem, out = draw(0, batch=64, count=100), np.empty((64, 10), np.int32)
    problem.by(method.select, out=out)
    tracemalloc.start()
    problem.by(method.select, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    factor = 10 * 112 * 4 if method.name == "dpp" else 0
    assert peak < 2000 + factor  # Python's own small objects
