"""The GPU is taken where there is one, demanded in vain with one clear line, and done without where that is allowed."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import faiss
import numpy as np
import onnxruntime
import pytest

from shortlist.cascade import Cascade
from shortlist.devices import choose_device
from shortlist.devices.faiss_gpu import Placement
from shortlist.errors import ConfigError, install_hint
from shortlist.types import Request, Slate
from tests.devices.fake import install
from tests.factories import make_bundle


def _no_gpu(monkeypatch: pytest.MonkeyPatch, engines: Path) -> Path:
    """onnxruntime-gpu, faiss-gpu, CuPy and TensorRT are all installed, and there is no GPU: what each then says."""
    install(monkeypatch).available = False
    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    engines.mkdir()
    return engines


def test_packages_for_gpus_are_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engines = _no_gpu(monkeypatch, tmp_path / "engines")
    with pytest.raises(ConfigError, match=r"device = 'gpu': there is no GPU.*onnxruntime-gpu or faiss-gpu"):
        choose_device("gpu", engines)


def test_auto_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines = _no_gpu(monkeypatch, tmp_path / "engines")
    with caplog.at_level(logging.WARNING, "shortlist.devices"):
        device = choose_device("auto", engines)
    assert device.name == "cpu"
    assert "there is no GPU" in device.note
    assert device.note in caplog.text


def test_a_cascade_that_fell_back_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = choose_device("auto", _no_gpu(monkeypatch, tmp_path / "engines"))
    cascade = Cascade.load(make_bundle(tmp_path / "bundle"), device=device)
    (slate,) = cascade.recommend([Request(user_id=b"user-0")])
    assert isinstance(slate, Slate)
    assert len(slate.item_ids) == 10


def test_the_cpu_is_taken_without_a_look_at_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: pytest.fail("looked"))
    device = choose_device("cpu")
    assert (device.name, device.note, device.xp) == ("cpu", "", np)


def test_auto_takes_the_gpu_that_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    device = choose_device("auto", tmp_path)
    assert (device.name, device.note) == ("gpu", "")


def _without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


def _without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def _with_faiss_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))


def _with_blind_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(StandardGpuResources=object, get_num_gpus=lambda: 0)
    monkeypatch.setitem(sys.modules, "faiss", blind)


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        (_without_cupy, re.escape(install_hint("gpu"))),
        (_without_tensorrt, "TensorRT is not installed"),
        (_with_faiss_of_the_cpu, "the installed FAISS is for the CPU"),
        (_with_blind_faiss, "the installed FAISS sees no GPU"),
    ],
    ids=["CuPy", "TensorRT", "FAISS for GPUs", "FAISS for this GPU"],
)
def test_what_is_missing_is_named(lack: object, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    lack(monkeypatch)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=said):
        choose_device("gpu", tmp_path)


@pytest.mark.parametrize("engines", [None, Path("nowhere")])
def test_a_gpu_without_plans_says_how_to_build_them(engines: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(ConfigError, match="shortlist export BUNDLE --target gpu"):
        choose_device("gpu", engines)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device = 'tpu': cpu, gpu or auto is allowed"):
        choose_device("tpu")  # type: ignore[arg-type]


def test_the_gpu_that_an_instance_is_given_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = install(monkeypatch, gpus=2)
    choose_device("gpu", tmp_path, Placement((1,)))
    assert [stream.gpu for stream in machine.streams] == [1]


def test_another_thread_comes_back_to_the_instances_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = install(monkeypatch, gpus=2)
    device = choose_device("gpu", tmp_path, Placement((1,)))
    machine.current = 0
    device.put(np.zeros(3, np.float32))
    assert machine.current == 1


def test_a_gpu_beyond_those_of_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, gpus=2)
    with pytest.raises(ConfigError, match="gpus = 0,2: the 2 of this machine are numbered from 0"):
        choose_device("gpu", tmp_path, Placement((0, 2)))


@pytest.mark.parametrize("error", [RuntimeError("cudaErrorIllegalAddress"), MemoryError("out of memory")], ids=str)
def test_a_gpu_that_fails_is_not_blamed_on_the_bundle(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise error

    install(monkeypatch)
    device = choose_device("gpu", tmp_path)
    monkeypatch.setattr(device, "keep", fail)
    with pytest.raises(ConfigError, match=rf"device = 'gpu': it failed.*{error}.*nvidia-smi"):
        Cascade.load(make_bundle(tmp_path / "bundle"), device=device)


def test_a_driver_that_is_missing_is_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> bool:
        raise RuntimeError("cudaErrorInsufficientDriver")  # CuPy's errors are RuntimeErrors

    monkeypatch.setattr(install(monkeypatch), "is_available", fail, raising=False)
    monkeypatch.setattr(sys.modules["cupy"].cuda, "is_available", fail)
    device = choose_device("auto", tmp_path)
    assert device.name == "cpu"
    assert "cudaErrorInsufficientDriver" in device.note
