"""score_pool.cu, run on the CPU: it has the reference's bits in every order of its threads."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.kernels.score_pool import score_pool
from shortlist.kernels.score_pool.gpu import SOURCE, load_width
from shortlist.kernels.score_pool.reference import score_pool_reference
from tests.kernels.cuda import emulator, fake_cupy


def problem(batch: int, count: int, dim: int, items: int = 40) -> tuple[np.ndarray, ...]:
    """Rows of which some are missing or outside of the table, and vectors of which some are no numbers."""
    rng = np.random.default_rng(dim)
    vectors = rng.normal(size=(items, dim)).astype(np.float32)
    for special in (np.nan, np.inf, -np.inf, 3e38):
        vectors[rng.integers(items), rng.integers(dim)] = special
    rows = rng.integers(-2, items + 2, (batch, count)).astype(np.int32)
    users, linear = rng.normal(size=(batch, dim)), rng.normal(size=(batch, count))
    return vectors, rows, users.astype(np.float32), linear.astype(np.float32)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> fake_cupy.FakeCupy:
    return fake_cupy.install(monkeypatch)


@pytest.mark.parametrize(
    ("batch", "count", "dim"), [(1, 1, 1), (3, 33, 16), (2, 70, 64), (2, 65, 40), (1, 20, 7), (2, 129, 18)]
)
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_has_the_bits_of_the_reference_in_every_order_of_threads(
    batch: int, count: int, dim: int, cupy: fake_cupy.FakeCupy
) -> None:
    given = problem(batch, count, dim)
    for cupy.order in range(4):
        found = score_pool(*(cupy.asarray(array) for array in given))
        for array, expected in zip(found, score_pool_reference(*given), strict=True):
            assert np.array_equal(array, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_vectors_may_be_columns_of_a_wider_table(cupy: fake_cupy.FakeCupy) -> None:
    vectors, *rest = problem(2, 30, 16)
    table = cupy.asarray(np.concatenate([vectors, np.zeros((len(vectors), 5), np.float32)], axis=1))
    found = score_pool(table[:, :16], *(cupy.asarray(array) for array in rest))
    assert np.array_equal(found[1], score_pool_reference(vectors, *rest)[1])


@pytest.mark.parametrize(
    ("dim", "start", "wide", "width"), [(16, 0, 16, 4), (16, 0, 18, 2), (16, 1, 20, 1), (6, 0, 8, 2)]
)
def test_loads_are_as_wide_as_rows_allow(dim: int, start: int, wide: int, width: int, cupy: fake_cupy.FakeCupy) -> None:
    memory = np.empty(10 * wide * 4 + 16, np.uint8)
    first = -memory.ctypes.data % 16
    table = cupy.asarray(memory[first : first + 10 * wide * 4].view(np.float32).reshape(10, wide))
    assert load_width(table[:, start : start + dim]) == width


def test_no_rows_give_no_scores(cupy: fake_cupy.FakeCupy) -> None:
    vectors, rows, users, linear = (cupy.asarray(array) for array in problem(2, 3, 16))
    assert score_pool(vectors, rows[:, :0], users, linear[:, :0])[1].shape == (2, 0)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_nothing_beyond_the_last_row_is_touched(cupy: fake_cupy.FakeCupy) -> None:
    cupy.overruns = True
    given = problem(2, 65, 18)
    table = cupy.asarray(np.pad(given[0], ((0, 0), (3, 5))))[:, 3:21]  # ends before the padding of its last row
    found = score_pool(table, *(cupy.asarray(array) for array in given[1:]))
    assert np.array_equal(found[1], score_pool_reference(*given)[1])


def test_a_row_that_is_not_looked_at_is_caught(cupy: fake_cupy.FakeCupy) -> None:
    cupy.overruns = True
    ((_, cupy.text),) = emulator.mutants(emulator.flatten(SOURCE), " && row < item_count", "")
    vectors, rows, users, linear = problem(1, 8, 16)
    rows[0, 0] = 100
    with pytest.raises(emulator.KernelError, match="buffer-overflow"):
        score_pool(*(cupy.asarray(array) for array in (vectors, rows, users, linear)))


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({1: np.zeros((2, 3), np.int64)}, TypeError, "rows: dtype is int64; int32 is allowed"),
        ({2: np.zeros((2, 5), np.float32)}, ValueError, r"users: shape is \(2, 5\); \(2, 16\) is allowed"),
        ({3: np.zeros((2, 4), np.float32)}, ValueError, r"linear: shape is \(2, 4\); \(2, 3\) is allowed"),
        ({0: np.zeros((16, 40), np.float32).T}, ValueError, "vectors: .* columns side by side is allowed"),
    ],
    ids=["rows", "users", "linear", "vectors"],
)
def test_what_does_not_fit_is_named(change: dict[int, np.ndarray], error: type[Exception], why: str) -> None:
    given = [change.get(i, array) for i, array in enumerate(problem(2, 3, 16))]
    with pytest.raises(error, match=why):
        score_pool(*given)
