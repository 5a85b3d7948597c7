"""The benchmark for a GPU, run without one: on tiny sizes, with kernels in the emulator and events by the clock."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from shortlist.errors import install_hint
from shortlist.kernels import bench_gpu, gpu_jobs
from shortlist.kernels.bench_gpu import machine_of, main, measure
from shortlist.kernels.gpu_jobs import SELECTIONS, Features, fusion, ranking, selection
from tests.kernels.cuda import fake_cupy

TINY = (
    *(partial(selection, name, 2, 20, 16, 4, "float16", 0.0) for name in SELECTIONS),
    partial(fusion, Features(9, 20, 8, 2, 3, "int8", "uint8"), 2, 0.0),
    partial(ranking, 2, 40, 5, 0.0),
)
H100 = {"name": b"NVIDIA H100 80GB HBM3"}
OTHER = {"name": "Imaginary", "multiProcessorCount": 10, "clockRate": 1_500_000}


class Event:
    """CuPy's, by the clock of the CPU."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake CuPy with what only the benchmark uses: events, properties, and NumPy's functions for the rivals."""
    fake = fake_cupy.install(monkeypatch)

    def from_numpy(name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function

        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            return result.view(fake.ndarray) if isinstance(result, np.ndarray) else result

        return call

    vars(fake)["__getattr__"] = from_numpy
    vars(fake.cuda).update(Event=Event, get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at))
    vars(fake.cuda).update(get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None))
    vars(fake.cuda).update(is_available=lambda: True)
    vars(fake.cuda.runtime).update(getDeviceProperties=lambda number: H100)
    return fake


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # its tensors are views of the CPU's arrays
    sizes = {"STANDARD": TINY, "AWKWARD": (), "TABLE": 50, "SMALL_TABLE": 50, "REPEATS": 2, "FLUSH": 64}
    for name, value in sizes.items():
        monkeypatch.setattr(bench_gpu, name, value)


@pytest.mark.usefixtures("tiny")
def test_times_every_kernel_and_its_rivals(cupy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [set(job["rivals"]) for job in found["jobs"]] == [{"cupy", "torch"}] * len(TINY)
    assert all(job["cold_us"] > 0 and job["floor_us"] > 0 for job in found["jobs"])


@pytest.mark.usefixtures("tiny")
def test_rivals_do_the_same_job(cupy: Any) -> None:
    found = measure(cupy, TINY, 50, 1, 64)
    assert [rival["agrees"] for job in found["jobs"] for rival in job["rivals"].values()] == [1.0] * 2 * len(TINY)


@pytest.mark.usefixtures("tiny")
def test_the_table_has_a_line_for_each_job(cupy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    head, lines = capsys.readouterr().out.split("\n\n")
    assert "H100 SXM" in head
    assert len(lines.splitlines()) == 2 + len(TINY)


@pytest.mark.usefixtures("tiny")
def test_a_wrong_kernel_is_named_and_not_timed(
    cupy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_gpu, "STANDARD", TINY[-1:])
    source = gpu_jobs.top_k.__globals__["SOURCE"].read_text()
    cupy.text = source.replace("best[rank] = position", "best[rank] = 0")
    assert main([]) == 1
    assert capsys.readouterr().err == "wrong on this GPU, so nothing was timed: top_k B=2 N=40 K=5\n"


@pytest.mark.parametrize("build", bench_gpu.AWKWARD[-4:-1], ids=["floats", "halves", "top-k"])
def test_awkward_shapes_equal_the_reference_too(build: Any, cupy: Any) -> None:
    assert bench_gpu.is_right(build(cupy, 50))


def test_without_cupy_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main([]) == 2
    expected = f"bench-gpu needs an NVIDIA GPU: CuPy is not installed: {install_hint('gpu')}\n"
    assert capsys.readouterr().err == expected


def test_without_a_gpu_one_line_says_so(cupy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cupy.cuda.is_available = lambda: False
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("bench-gpu needs an NVIDIA GPU: there is no GPU: CUDA sees none")


@pytest.mark.parametrize(
    ("name", "machine"),
    [("NVIDIA H100 80GB HBM3", "H100 SXM"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA L4", "L4")],
)
def test_known_machines_are_those_of_their_data_sheets(name: str, machine: str) -> None:
    assert machine_of({"name": name}).name == machine


def test_other_machines_are_what_their_driver_says() -> None:
    machine = machine_of({**OTHER, "memoryClockRate": 1_000_000, "memoryBusWidth": 256})
    assert (machine.multiprocessors, machine.gigahertz, machine.bandwidth) == (10, 1.5, 64e9)
