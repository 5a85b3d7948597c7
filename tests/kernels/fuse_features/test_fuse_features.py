"""Feature fusion on the CPU equals the reference bit by bit, touches nothing that it must not, and says no clearly."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.kernels.fuse_features import Columns, cpu, fuse_features, make_columns, warm_up
from shortlist.kernels.fuse_features.reference import fuse_features_reference

TABLE = 50


@dataclass(frozen=True)
class Problem:
    """Arguments of `fuse_features`."""

    items: Any
    rows: Any
    users: Any
    channels: Any
    side: Any
    columns: Columns

    def by(self, fuse: Any, **options: Any) -> tuple[Any, Any]:
        return fuse(self.items, self.rows, self.users, self.channels, self.side, self.columns, **options)

    def but(self, **changes: Any) -> Problem:
        return replace(self, **changes)


def draw(
    items: str = "int8",
    features: str = "uint8",
    batch: int = 2,
    count: int = 7,
    widths: tuple[int, int, int, int] = (20, 12, 2, 5),
    seed: int = 0,
) -> Problem:
    """Random arguments; `widths` are W, D, C and S. About a fifth of the rows is missing."""
    rng = np.random.default_rng(seed)
    width, dim, channels, side = widths
    total = width + channels + side
    table, scale = rng.normal(size=(TABLE, width)), None
    if items == "int8":
        scale = (np.abs(table).max(axis=0) / 127).astype(np.float32)
        table = np.rint(table / scale)
    rows = np.where(rng.random((batch, count)) < 0.2, -1, rng.integers(0, TABLE, (batch, count)))
    constants = (rng.normal(size=total), rng.uniform(0.3, 2, total), rng.normal(size=total))
    return Problem(
        table.astype(items),
        rows.astype(np.int32),
        *(rng.normal(size=s).astype(np.float32) for s in ((batch, dim), (batch, count, channels), (batch, side))),
        make_columns(*(part.astype(np.float32) for part in constants), 0.3, 4.0, features, scale),
    )


def same(problem: Problem, **options: Any) -> bool:
    """Whether features and linear part are those of the reference, bit by bit."""
    found, expected = problem.by(fuse_features, **options), problem.by(fuse_features_reference)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("features", ["uint8", "int8", "float16", "float32"])
@pytest.mark.parametrize("items", ["int8", "float16", "float32"])
def test_every_pair_of_types_equals_the_reference(items: str, features: str) -> None:
    assert same(draw(items, features))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([("int8", "uint8"), ("float16", "uint8"), ("float32", "float32")]),
    st.integers(0, 3),
    st.integers(0, 11),
    st.tuples(st.integers(1, 70), st.integers(0, 70), st.integers(0, 20), st.integers(0, 40)),
    st.integers(0, 9),
)
def test_every_shape_equals_the_reference(
    types: tuple[str, str], batch: int, count: int, widths: tuple[int, int, int, int], seed: int
) -> None:
    width, dim, channels, side = widths
    assert same(draw(*types, batch, count, (width, min(width, dim), channels, side), seed))


def test_more_candidates_than_are_asked_for_ahead_equal_the_reference() -> None:
    assert same(draw(count=101, widths=(96, 64, 2, 16)))


def test_threads_give_what_one_gives() -> None:
    assert same(draw(batch=5), threads=3)


def test_rows_at_a_distance_are_read_where_they_lie() -> None:
    problem = draw("float16")
    wide = np.zeros((TABLE, 64), np.float16)
    wide[:, 8:28] = problem.items
    assert same(problem.but(items=wide[:, 8:28]))


def test_a_table_on_disk_is_read_where_it_lies(tmp_path: Path) -> None:
    problem = draw()
    np.save(tmp_path / "items.npy", problem.items)
    assert same(problem.but(items=np.load(tmp_path / "items.npy", mmap_mode="r")))


def test_a_part_of_wider_arguments_is_read_right() -> None:
    problem, rows = draw(count=4), np.full((2, 9), -1, np.int32)
    rows[:, 3:7] = problem.rows
    assert same(problem.but(rows=rows[:, 3:7]))


def test_torch_tensors_come_back_as_tensors() -> None:
    problem = draw("float16")
    parts = {name: torch.from_numpy(getattr(problem, name)) for name in ("items", "rows", "users", "channels", "side")}
    features, linear = problem.but(**parts).by(fuse_features)
    expected = problem.by(fuse_features_reference)
    assert torch.equal(features, torch.from_numpy(expected[0]))
    assert torch.equal(linear, torch.from_numpy(expected[1]))


def test_missing_candidates_are_minus_infinity_and_the_zero_point() -> None:
    problem = draw()
    features, linear = problem.but(rows=np.full_like(problem.rows, -1)).by(fuse_features)
    assert (features == 128).all()
    assert np.isneginf(linear).all()


def test_a_table_without_items_serves_requests_without_candidates() -> None:
    problem = draw()
    rows = np.full_like(problem.rows, -1)
    assert same(problem.but(items=problem.items[:0], rows=rows))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("features", ["uint8", "float32"])
def test_values_that_are_no_good_numbers_equal_the_reference(features: str, value: float) -> None:
    problem = draw("float32", features)
    for part in (problem.users, problem.channels, problem.side):
        part[..., 0] = value
    with np.errstate(invalid="ignore", over="ignore"):
        expected = problem.by(fuse_features_reference)
    found = problem.by(fuse_features)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("row", [-2, TABLE, 2**31 - 1, -(2**31)])
def test_a_row_outside_the_table_is_named_and_nothing_is_done(row: int) -> None:
    problem = draw()
    problem.rows[1, 2] = row
    out = np.full((2, 7, 27), 7, np.uint8), np.full((2, 7), 7, np.float32)
    with pytest.raises(IndexError, match=rf"rows\[1, 2\] = {row}: -1 to 49 is allowed"):
        problem.by(fuse_features, out=out)
    assert (out[0] == 7).all()
    assert (out[1] == 7).all()


def test_results_go_where_they_are_wanted_without_any_other_memory() -> None:
    problem = draw(batch=16, count=500, widths=(96, 64, 2, 16))
    out = np.empty((16, 500, 114), np.uint8), np.empty((16, 500), np.float32)
    problem.by(fuse_features, out=out)
    tracemalloc.start()
    try:
        problem.by(fuse_features, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000  # arguments and views; 1,000 times less than one feature column in float32
    np.testing.assert_array_equal(out[0], problem.by(fuse_features_reference)[0])


def test_serving_compiles_nothing_after_warm_up(tmp_path: Path) -> None:
    warm_up(("float16",), "uint8")
    compiled = cpu.compiled.cache_info().misses
    problem = draw("float16")
    np.save(tmp_path / "items.npy", problem.items)
    problem.rows.flags.writeable = False
    for items in (problem.items, problem.items[::2], np.load(tmp_path / "items.npy", mmap_mode="r")):
        problem.but(items=items, rows=problem.rows % len(items)).by(fuse_features)
    assert cpu.compiled.cache_info().misses == compiled
    assert len(cpu.compiled(np.dtype("float16"), np.dtype("uint8")).signatures) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"items": np.zeros((9, 20), np.float64)}, TypeError, "items: dtype is float64; int8, float16 or float32"),
        ({"items": np.zeros(20, np.int8)}, ValueError, r"items: shape is \(20,\); \[M, W\]"),
        ({"items": np.zeros((20, 9), np.int8).T}, ValueError, "items: strides are .* side by side"),
        ({"items": np.zeros((9, 3000), np.int8)}, ValueError, "W from 1 to 2048 is allowed"),
        ({"rows": np.zeros((2, 7), np.int64)}, TypeError, "rows: dtype is int64; int32 is allowed"),
        ({"rows": np.zeros((3, 7), np.int32)}, ValueError, r"users: shape is \(2, 12\); \(3, 12\) is allowed"),
        ({"users": np.zeros((2, 21), np.float32)}, ValueError, r"21 user .* at most 20 \(W\)"),
        ({"users": np.zeros((2, 12), np.float64)}, TypeError, "users: dtype is float64; float32 is allowed"),
        ({"channels": np.zeros((2, 7), np.float32)}, ValueError, "channels: .* 3 dimensions are allowed"),
        ({"channels": np.zeros((2, 6, 2), np.float32)}, ValueError, r"channels: .* \(2, 7, 2\) is allowed"),
        ({"side": np.zeros((2, 4), np.float32)}, ValueError, r"columns.multiplier: .* \(26,\) is allowed"),
        ({"side": [[0.0]]}, TypeError, "list is no array"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        draw().but(**changes).by(fuse_features)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_results_of_another_type_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"out\[0\]: dtype is .*; uint8 is allowed"):
        draw().by(fuse_features, out=(np.empty((2, 7, 27), dtype), np.empty((2, 7), np.float32)))


def test_a_feature_type_that_no_filter_takes_is_refused() -> None:
    columns = replace(make_columns(*np.ones((3, 5), np.float32), 0.0, 4.0), dtype="float64")
    arrays = (np.zeros(shape, np.float32) for shape in ((1, 2), (1, 1, 1), (1, 1)))
    with pytest.raises(TypeError, match="dtype is 'float64'"):
        fuse_features(np.zeros((4, 3), np.float32), np.zeros((1, 1), np.int32), *arrays, columns)
