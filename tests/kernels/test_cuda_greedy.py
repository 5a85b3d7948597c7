"""MMR and DPP on the GPU, from the public function to the kernel's source, run on the CPU: equal to the references."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.kernels import gpu
from shortlist.kernels.dpp import dpp
from shortlist.kernels.dpp.gpu import dpp as dpp_on_gpu
from shortlist.kernels.dpp.reference import dpp_reference
from shortlist.kernels.mmr import mmr
from shortlist.kernels.mmr.gpu import mmr as mmr_on_gpu
from shortlist.kernels.mmr.gpu import plan
from shortlist.kernels.mmr.reference import mmr_reference
from tests.kernels.cuda.emulator import KERNELS, KernelError, flatten, mutants
from tests.kernels.cuda.fake_cupy import FakeCupy, install


@dataclass(frozen=True)
class Method:
    """One of the two selections."""

    name: str
    public: Callable[..., Any]
    on_gpu: Callable[..., Any]
    reference: Callable[..., Any]

    @property
    def source(self) -> Path:
        return KERNELS / self.name / f"{self.name}.cu"


METHODS = [Method("mmr", mmr, mmr_on_gpu, mmr_reference), Method("dpp", dpp, dpp_on_gpu, dpp_reference)]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    return install(monkeypatch)


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


def _problem(batch: int, count: int, dim: int, kind: str = "float32", seed: int = 0) -> tuple[np.ndarray, ...]:
    """items, rows (ragged, some of them twice), relevance (with ties, junk where missing), trade_off."""
    rng = np.random.default_rng(seed + 100 * count + dim)
    items = rng.normal(size=(43, dim))
    items = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(kind)
    rows = rng.integers(-1, 43, (batch, count)).astype(np.int32)
    rows[0, count // 2 :] = -1
    relevance = np.where(rows < 0, np.nan, rng.integers(0, 9, (batch, count)) / 8).astype(np.float32)
    return items, rows, relevance, np.linspace(0, 1, batch + 2)[1:-1].astype(np.float32)


def _groups(seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 4, 43).astype(np.int32)


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize(
    ("batch", "count", "dim", "k", "kind"),
    [
        (1, 1, 1, 1, "float32"),
        (3, 31, 33, 5, "float16"),
        (3, 33, 31, 10, "float32"),
        (2, 5, 64, 9, "float32"),
        (2, 100, 64, 10, "float16"),
        (2, 257, 8, 4, "float16"),
    ],
    ids=["one", "N31-D33", "N33-D31", "K-above-N", "N100-D64", "many-turns"],
)
def test_picks_equal_the_reference_in_every_order(
    cupy: FakeCupy, method: Method, batch: int, count: int, dim: int, k: int, kind: str, order: int
) -> None:
    problem, groups = _problem(batch, count, dim, kind), _groups()
    cupy.order = order
    arrays = [cupy.asarray(array) for array in problem]
    free = method.public(*arrays, k)
    capped = method.public(*arrays, k, groups=cupy.asarray(groups), max_per_group=2)
    assert np.array_equal(free.get(), method.reference(*problem, k))
    assert np.array_equal(capped.get(), method.reference(*problem, k, groups=groups, max_per_group=2))


def test_vectors_that_overflow_are_ordered_as_the_reference_orders_them(cupy: FakeCupy, method: Method) -> None:
    items, rows, relevance, trade_off = _problem(4, 20, 16)
    items *= np.float32(2e19)
    with np.errstate(all="ignore"):
        expected = method.reference(items, rows, relevance, trade_off, 8)
    arrays = [cupy.asarray(array) for array in (items, rows, relevance, trade_off)]
    assert np.array_equal(method.public(*arrays, 8).get(), expected)


def test_rows_that_start_anywhere_are_loaded_by_fitting_steps(cupy: FakeCupy, method: Method) -> None:
    items, *rest = _problem(2, 20, 6, "float16")
    padded = np.zeros(items.size + 1, np.float16)
    padded[1:] = items.ravel()
    shifted = cupy.asarray(padded)[1:].reshape(items.shape)  # no longer at a multiple of four bytes
    picks = method.public(shifted, *map(cupy.asarray, rest), 5)
    assert np.array_equal(picks.get(), method.reference(items, *rest, 5))


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_nothing_is_read_or_written_out_of_bounds(cupy: FakeCupy, method: Method, kind: str) -> None:
    problem, groups = _problem(3, 33, 24, kind), _groups()
    cupy.overruns = True
    picks = method.public(*map(cupy.asarray, problem), 9, groups=cupy.asarray(groups), max_per_group=2)
    assert np.array_equal(picks.get(), method.reference(*problem, 9, groups=groups, max_per_group=2))


def test_shared_memory_that_is_too_small_is_found(
    cupy: FakeCupy, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[plan.__module__], "CANDIDATE_BYTES", 19)
    cupy.overruns = True
    with pytest.raises(KernelError, match="heap-buffer-overflow"):
        method.public(*map(cupy.asarray, _problem(1, 40, 8)), 3)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"__syncthreads\(\);", ""),
        (r"__syncthreads_or\((\w+)\)", r"\1"),
        (r"found % 2", "0"),
        (r"lane == 0 && (remains)", r"\1"),
        (r"size_t\(blockIdx\.x\) \* K \+ found", "found"),
    ],
    ids=["barrier", "barrier-with-vote", "one-row-of-bests", "all-lanes-write", "one-output"],
)
def test_a_kernel_with_a_mistake_is_found_out(cupy: FakeCupy, method: Method, pattern: str, replacement: str) -> None:
    changed = list(mutants(flatten(method.source), pattern, replacement))
    assert changed
    for _, cupy.text in changed:
        assert not _is_right_in_every_order(cupy, method)


def _is_right_in_every_order(cupy: FakeCupy, method: Method) -> bool:
    problem = _problem(2, 40, 8)
    expected = method.reference(*problem, 6)
    for cupy.order in range(4):
        try:
            picks = method.public(*map(cupy.asarray, problem), 6)
        except KernelError:
            return False
        if not np.array_equal(picks, expected):
            return False
    return True


def test_the_text_that_mistakes_are_made_in_is_right_without_them(cupy: FakeCupy, method: Method) -> None:
    cupy.text = flatten(method.source)
    assert _is_right_in_every_order(cupy, method)


@pytest.mark.parametrize(
    ("name", "where", "value", "error", "message"),
    [
        ("rows", (1, 3), -2, IndexError, "rows[1, 3] = -2: -1 to 42 is allowed"),
        ("rows", (0, 2), 43, IndexError, "rows[0, 2] = 43: -1 to 42 is allowed"),
        ("relevance", (1, 4), np.nan, ValueError, "relevance[1, 4] = nan is not finite"),
        ("relevance", (0, 1), -np.inf, ValueError, "relevance[0, 1] = -inf is not finite"),
        ("trade_off", 1, 1.5, ValueError, "trade_off[1] = 1.5"),
        ("trade_off", 0, np.nan, ValueError, "trade_off[0] = nan"),
    ],
)
def test_refused_values_raise_what_the_cpu_raises(
    cupy: FakeCupy, method: Method, name: str, where: Any, value: float, error: type[Exception], message: str
) -> None:
    problem = dict(zip(("items", "rows", "relevance", "trade_off"), _problem(2, 9, 8), strict=True))
    problem["rows"][problem["rows"] < 0] = 0
    problem["relevance"][:] = 0
    problem[name][where] = value
    with pytest.raises(error, match=re.escape(message)) as on_gpu:
        method.public(*map(cupy.asarray, problem.values()), 3)
    with pytest.raises(error, match=re.escape(message)) as on_cpu:
        method.public(*problem.values(), 3)
    assert str(on_gpu.value) == str(on_cpu.value)


def test_rows_out_of_range_are_never_read(cupy: FakeCupy, method: Method) -> None:
    items, rows, relevance, trade_off = _problem(2, 9, 8)
    rows[1, 2], relevance[1, 2], cupy.overruns = 2**31 - 1, 0, True
    groups = cupy.asarray(_groups())
    with pytest.raises(IndexError, match=r"rows\[1, 2\]"):
        method.public(*map(cupy.asarray, (items, rows, relevance, trade_off)), 3, groups=groups, max_per_group=1)


def test_with_refused_of_the_caller_nothing_waits_and_other_requests_are_served(cupy: FakeCupy, method: Method) -> None:
    items, rows, relevance, trade_off = _problem(3, 9, 8)
    expected = method.reference(items, rows, relevance, trade_off, 4)
    rows[1, 6], rows[1, 4], relevance[1, 4], trade_off[0] = 99, -5, 0, -1
    expected[:2] = -1
    refused = gpu.new_refused(3)
    picks = method.on_gpu(*map(cupy.asarray, (items, rows, relevance, trade_off)), 4, refused=refused)
    assert cupy.syncs == 0
    assert refused.tolist() == [9 + 4, gpu.NOTHING, 0]
    assert np.array_equal(picks, expected)


def test_what_one_call_refused_is_kept_by_the_next(cupy: FakeCupy, method: Method) -> None:
    wrong, sound = _problem(2, 9, 8), _problem(2, 9, 8)
    wrong[1][1, 3] = 99
    refused = gpu.new_refused(3)
    for problem in (wrong, sound):
        method.on_gpu(*map(cupy.asarray, problem), 4, refused=refused)
    assert refused.tolist() == [9 + 3, gpu.NOTHING, gpu.NOTHING]


def test_out_takes_the_picks(cupy: FakeCupy, method: Method) -> None:
    problem = _problem(2, 9, 8)
    out = cupy.empty((2, 4), np.int32)
    assert method.public(*map(cupy.asarray, problem), 4, out=out) is out
    assert np.array_equal(out, method.reference(*problem, 4))


@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0)])
def test_no_requests_or_no_candidates_give_no_picks(cupy: FakeCupy, method: Method, batch: int, count: int) -> None:
    rows, relevance = np.zeros((batch, count), np.int32), np.zeros((batch, count), np.float32)
    problem = (np.ones((3, 4), np.float32), rows, relevance, np.ones(batch, np.float32))
    assert method.public(*map(cupy.asarray, problem), 3).get().tolist() == [[-1] * 3] * batch


def test_a_kernel_is_compiled_once_for_each_set_of_constants(cupy: FakeCupy, method: Method) -> None:
    for count in (10, 11, 10, 300):
        method.public(*map(cupy.asarray, _problem(1, count, 8)), 2)
    assert len(gpu._KERNELS) == 2
    assert cupy.launches == 4


def test_every_block_has_whole_warps_and_at_most_384_threads() -> None:
    sizes = {int(plan("float32", 64, load, count)["THREADS"]) for load in (1, 2, 4, 8) for count in range(1025)}
    assert sizes == {64, 128, 192, 256, 320, 384}


def test_the_work_space_of_dpp_must_have_its_size(cupy: FakeCupy) -> None:
    arrays = [cupy.asarray(array) for array in _problem(2, 9, 8)]
    with pytest.raises(ValueError, match=r"factor: is float32 \(2, 4, 8\); float32 \(2, 4, 9\), contiguous"):
        dpp_on_gpu(*arrays, 4, factor=cupy.zeros((2, 4, 8), np.float32))
