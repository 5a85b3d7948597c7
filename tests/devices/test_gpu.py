"""The GPU's path gives the CPU's slates, with one copy in, one out, and one wait for a batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.deadlines import StageCost
from shortlist.devices import choose_device
from shortlist.devices.gpu import Gpu
from shortlist.kernels import gpu as compiled
from shortlist.kernels.gpu import NOTHING
from shortlist.serving.plans import DEFAULT_PRECISIONS, first_graphs, make_graphs
from shortlist.types import Request, Slate
from tests.devices.fake import install, write_plans
from tests.factories import make_bundle

BATCH = 50


def _on_gpu(path: Path, engines: Path) -> Cascade:
    write_plans(Bundle.open(path), engines)
    return Cascade.load(path, device=choose_device("gpu", engines))


def _slates(cascade: Cascade, requests: list[Request]) -> list[Slate]:
    answers = [a for i in range(0, len(requests), BATCH) for a in cascade.recommend(requests[i : i + BATCH])]
    assert all(isinstance(answer, Slate) for answer in answers), answers
    return answers


def _requests(count: int, name: str = "user") -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request(f"{name}{u}".encode(), k=int(rng.integers(1, 20)), diversity=float(rng.choice([0, 0.3, 0.7])))
        for u in range(count)
    ]


@pytest.mark.parametrize("limit", [10, 4000], ids=["by the index", "whole catalogue"])
def test_two_hundred_users_get_the_slates_of_the_cpu(
    planted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", limit)
    requests, path = _requests(200), planted_run / "bundle"
    expected = _slates(Cascade.load(path), requests)
    install(monkeypatch)
    found = _slates(_on_gpu(path, tmp_path / "engines"), requests)
    assert [slate.item_ids for slate in found] == [slate.item_ids for slate in expected]


def test_scores_are_those_of_the_cpu(planted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, path = _requests(20), planted_run / "bundle"
    expected = _slates(Cascade.load(path), requests)
    install(monkeypatch)
    for slate, other in zip(_slates(_on_gpu(path, tmp_path / "engines"), requests), expected, strict=True):
        np.testing.assert_allclose(slate.scores, other.scores, rtol=1e-4)  # padded batches: other orders of sums


def test_plans_in_half_precision_keep_nine_items_of_ten(
    planted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, path = [Request(f"user{u}".encode()) for u in range(100)], planted_run / "bundle"
    expected = _slates(Cascade.load(path), requests)
    install(monkeypatch)
    bundle = Bundle.open(path)
    graphs = make_graphs(bundle, DEFAULT_PRECISIONS | {"filter": "fp16"})
    engines = write_plans(bundle, tmp_path / "engines", first_graphs(graphs))
    cascade = Cascade.load(path, device=choose_device("gpu", engines))
    assert cascade.filter.columns.dtype == "float16"
    found = _slates(cascade, requests)
    shared = [len(set(a.item_ids) & set(b.item_ids)) / 10 for a, b in zip(found, expected, strict=True)]
    assert np.mean(shared) >= 0.9


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", candidates=60, rank_depth=20)


KINDS = [
    Request(b"user-0"),
    Request(b"user-1", k=50, trace=True),
    Request(b"user-0", exclude=tuple(f"item-{i}".encode() for i in range(250)), k=20),
    Request(history=(b"item-1", b"item-1", b"no such item")),
    Request(),
    Request(b"user-0", exclude=tuple(f"item-{i}".encode() for i in range(300))),
]


@pytest.mark.parametrize("limit", [10, 4000], ids=["by the index", "whole catalogue"])
@pytest.mark.parametrize("options", [{}, {"diversifier": "dpp"}, {"group_by": "maker", "max_per_group": 1}], ids=str)
def test_every_kind_of_request_gets_the_slate_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, options: dict[str, object]
) -> None:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", limit)
    path = make_bundle(tmp_path / "bundle", candidates=60, rank_depth=20, **options)
    expected = _slates(Cascade.load(path), KINDS)
    install(monkeypatch)
    found = _slates(_on_gpu(path, tmp_path / "engines"), KINDS)
    assert [slate.item_ids for slate in found] == [slate.item_ids for slate in expected]


@pytest.mark.parametrize("left_out", ["rank", "filter", "retrieve"])
def test_a_tight_deadline_gets_the_slate_of_the_cpu(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    request = Request(b"user-0", deadline_unix_us=time.time_ns() // 1000 + 60_000_000)
    on_cpu = Cascade.load(tiny)
    install(monkeypatch)
    cascades = (on_cpu, _on_gpu(tiny, tmp_path / "engines"))
    for cascade in cascades:
        cascade.costs.stages = {left_out: StageCost(fixed=1000.0, each=0.0)}
    (expected,), (found,) = (_slates(cascade, [request]) for cascade in cascades)
    assert (found.item_ids, found.status) == (expected.item_ids, expected.status)


def test_a_trace_is_that_of_the_cpu(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(b"user-0", trace=True)
    (expected,) = _slates(Cascade.load(tiny), [request])
    install(monkeypatch)
    (found,) = _slates(_on_gpu(tiny, tmp_path / "engines"), [request])
    assert found.trace is not None
    assert expected.trace is not None
    assert found.trace["items"] == expected.trace["items"]


def test_the_cuda_sources_give_the_slates_of_the_cpu(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(f"user-{u}".encode(), diversity=0.5) for u in range(4)]
    expected = _slates(Cascade.load(tiny), requests)
    machine = install(monkeypatch, kernels="emulated")
    found = _slates(_on_gpu(tiny, tmp_path / "engines"), requests)
    assert machine.launches >= 6  # the pool's scores, retrieval's and both stages' best, features, MMR
    assert [slate.item_ids for slate in found] == [slate.item_ids for slate in expected]


@pytest.mark.parametrize("request_", KINDS[:2], ids=["plain", "traced"])
def test_a_batch_is_one_copy_in_one_copy_out_and_one_wait(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: Request
) -> None:
    machine = install(monkeypatch)
    cascade = _on_gpu(tiny, tmp_path / "engines")
    before = machine.counts.copies_in, machine.counts.copies_out, machine.counts.waits
    cascade.recommend([request_, request_, request_])
    after = machine.counts.copies_in, machine.counts.copies_out, machine.counts.waits
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_staging_memory_waits_for_a_copy_that_nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = install(monkeypatch)
    device = choose_device("gpu", tmp_path)
    device.put(np.arange(3))
    before = machine.counts.waits
    device.put(np.arange(3))
    assert machine.counts.waits == before + 1


def test_what_went_in_comes_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    device = choose_device("gpu", tmp_path)
    given = (np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros((0, 4), np.float32), np.float32([1.5, -2]))
    for array, returned in zip(given, device.fetch(*device.put(*given)), strict=True):
        assert type(returned) is np.ndarray
        assert returned.dtype == array.dtype
        assert np.array_equal(returned, array)


def test_what_a_kernel_refuses_is_raised_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = install(monkeypatch, kernels="emulated")
    device = choose_device("gpu", tmp_path)
    assert isinstance(device, Gpu)
    items, scores = machine.zeros((5, 4), np.float32), machine.zeros((1, 3), np.float32)
    rows, half = machine.asarray(np.array([[0, 7, 1]], np.int32)), machine.full(1, 0.5, np.float32)
    picks = device.mmr(items, rows, scores, half, 2, groups=None, max_per_group=0)
    with pytest.raises(RuntimeError, match="rows of the diversifier at 1"):
        device.fetch(picks)
    assert (device.fetch(device._refused)[0] == NOTHING).all()


def test_after_warming_up_no_request_compiles(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, kernels="emulated")
    cascade = _on_gpu(tiny, tmp_path / "engines")
    cascade.warm_up()
    known = len(compiled._KERNELS)
    cascade.recommend([Request(b"user-0", k=50), Request(b"user-1", exclude=(b"item-1",), k=7), Request()])
    assert len(compiled._KERNELS) == known


def _seconds(cascade: Cascade, requests: list[Request]) -> dict[str, float]:
    """What the observer is told of each stage."""
    told: dict[str, float] = {}
    cascade.observer = lambda stage, seconds, *_: told.update({stage: seconds})
    cascade.recommend(requests)
    return told


def test_a_stage_is_charged_with_the_work_of_the_gpu(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = install(monkeypatch)
    cascade = _on_gpu(tiny, tmp_path / "engines")
    keep = cascade.filter.score

    def slow(*arguments: Any) -> Any:
        machine.behind += 1000
        return keep(*arguments)

    monkeypatch.setattr(cascade.filter, "score", slow)
    seconds = _seconds(cascade, [Request(b"user-0")])
    assert [stage for stage, took in seconds.items() if took > 500] == ["filter"]


def test_the_stages_of_a_batch_take_no_longer_than_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    cascade = _on_gpu(tiny, tmp_path / "engines")
    start = time.perf_counter()
    seconds = _seconds(cascade, [Request(b"user-0")])
    assert 0 < sum(seconds.values()) <= time.perf_counter() - start


def test_work_that_nobody_waited_for_counts_as_the_host_saw_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = install(monkeypatch)
    device = choose_device("gpu", tmp_path)
    start = device.now()
    device.put(np.arange(3))
    machine.behind = 1000
    assert 0 <= device.seconds(start, device.now()) < 500
