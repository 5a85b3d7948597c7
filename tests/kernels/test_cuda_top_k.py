"""top_k.cu, run on the CPU: it gives the reference's positions in every order of its threads."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.kernels.gpu import options
from shortlist.kernels.top_k.gpu import SOURCE, THREADS, plan, top_k
from shortlist.kernels.top_k.reference import top_k_reference
from tests.kernels.cuda import emulator, fake_cupy


def values(batch: int, count: int, seed: int = 0) -> np.ndarray:
    """Few different numbers, so that many are equal, and all that are special."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-8, 8, (batch, count)).astype(np.float32)
    for special in (np.nan, -0.0, np.inf, -np.inf):
        numbers[rng.random((batch, count)) < 0.05] = special
    return numbers


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> fake_cupy.FakeCupy:
    return fake_cupy.install(monkeypatch)


@pytest.mark.parametrize(
    ("batch", "count", "k"),
    [
        (1, 1, 1),
        (3, 31, 31),
        (2, 33, 40),
        (4, 100, 10),
        (2, 500, 100),
        (1, 512, 512),
        (1, 2050, 7),
        (1, 2049, 2049),
        (1, 3, 2000),
    ],
    ids=lambda number: str(number),
)
def test_equals_the_reference_in_every_order_of_threads(
    batch: int, count: int, k: int, cupy: fake_cupy.FakeCupy
) -> None:
    numbers = values(batch, count)
    for cupy.order in range(4):
        found = top_k(cupy.asarray(numbers), k)
        assert np.array_equal(found, top_k_reference(numbers, k))


def test_no_values_give_only_missing_positions(cupy: fake_cupy.FakeCupy) -> None:
    assert np.array_equal(top_k(cupy.empty((2, 0), np.float32), 3), np.full((2, 3), -1))


def test_rows_may_lie_apart() -> None:
    numbers = values(3, 40)
    constants = plan(33)
    best = np.empty((3, 5), np.int32)
    kernel = emulator.build(SOURCE, "top_k", options(**constants))
    emulator.launch(kernel, (3, 1), (THREADS,), (numbers, np.int64(40), np.int32(33), np.int32(5), best))
    assert np.array_equal(best, top_k_reference(numbers[:, :33], 5))


def test_columns_that_lie_apart_are_copied(cupy: fake_cupy.FakeCupy) -> None:
    numbers = values(2, 40)
    assert np.array_equal(top_k(cupy.asarray(numbers)[:, ::2], 5), top_k_reference(numbers[:, ::2], 5))


def test_more_values_than_shared_memory_holds_are_refused(cupy: fake_cupy.FakeCupy) -> None:
    with pytest.raises(ValueError, match=r"shape is \(1, 8193\); \[B, N\] with N up to 8192"):
        top_k(cupy.zeros((1, 8193), np.float32), 3)


def test_a_missing_barrier_is_caught() -> None:
    ((_, text),) = emulator.mutants(SOURCE.read_text(), r"__syncthreads\(\);", "")
    kernel = emulator.build(text, "top_k", options(**plan(33)))
    best = np.empty((1, 5), np.int32)
    with pytest.raises(emulator.KernelError, match="race"):
        emulator.launch(kernel, (1, 1), (THREADS,), (values(1, 33), np.int64(33), np.int32(33), np.int32(5), best))


def test_shared_memory_that_is_full_is_not_overrun(cupy: fake_cupy.FakeCupy) -> None:
    cupy.overruns = True
    numbers = values(1, 512)
    assert np.array_equal(top_k(cupy.asarray(numbers), 5), top_k_reference(numbers, 5))


def test_shared_memory_that_is_too_small_is_caught() -> None:
    kernel = emulator.build(SOURCE, "top_k", options(**plan(512) | {"CAPACITY": 508}), overruns=True)
    arguments = (values(1, 512), np.int64(512), np.int32(512), np.int32(5), np.empty((1, 5), np.int32))
    with pytest.raises(emulator.KernelError, match="buffer-overflow"):
        emulator.launch(kernel, (1, 8), (THREADS,), arguments)
