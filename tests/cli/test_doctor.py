"""`shortlist doctor`: what it finds on this machine, and what it says about a sick one."""

import socket
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli import doctor as module
from shortlist.cli.doctor import (
    Check,
    check_extra,
    check_numpy,
    check_ports,
    check_room,
    check_stub,
    check_triton,
    doctor,
)
from shortlist.errors import install_hint
from shortlist.serving.process import free_address
from shortlist.serving.triton import TritonInstall, find_triton

APP = typer.Typer()
APP.command()(doctor)


def test_a_sound_machine_passes() -> None:
    address = free_address()
    ports = ["--grpc-port", str(address.grpc_port), "--metrics-port", str(address.metrics_port)]
    result = CliRunner().invoke(APP, ports, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    assert "runs a Python model" in result.output


def test_a_failing_check_fails_the_command_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *_: iter([Check("fuel", False, "none", "fill up [premium]")]))
    result = CliRunner().invoke(APP, [], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "fill up [premium]" in result.output


def test_an_absent_extra_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *_: iter([check_extra("no_such_module", "baselines")]))
    result = CliRunner().invoke(APP, [], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert install_hint("baselines") in result.output


def test_numpy_2_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    assert not check_numpy().passed


def test_a_port_in_use_fails_by_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = check_ports("127.0.0.1", port, free_address().metrics_port)
    assert not check.passed
    assert f"--grpc-port = {port}" in check.remedy


def test_too_little_room_fails() -> None:
    assert not check_room("disk", 1e9, 2e9, "free space").passed


def test_without_triton_the_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (check,) = check_triton()
    assert not check.passed
    assert "pip install nvidia-pytriton" in check.remedy


def test_a_stub_whose_libraries_are_missing_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    check = check_stub(TritonInstall(find_triton().root, "test", ()))  # without the wheel's libraries
    assert not check.passed
    assert "missing: libcudart" in check.found


def test_a_missing_stub_fails(tmp_path: Path) -> None:
    assert not check_stub(TritonInstall(tmp_path, "test", ())).passed


def test_a_server_that_does_not_start_fails_with_its_words(tmp_path: Path) -> None:
    install = find_triton()
    broken = TritonInstall(install.root, "test", ())  # without the wheel's libraries
    check = module.check_start(broken)
    assert not check.passed
    assert "shared libraries" in check.found


def test_what_a_gpu_needs_is_told_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *_: module.check_gpu())
    result = CliRunner().invoke(APP, [], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(name in result.output for name in ("GPU", "CuPy", "TensorRT", "FAISS"))


def test_a_faiss_for_the_cpu_is_told_from_one_for_gpus() -> None:
    check = module.check_gpu_package("FAISS", "faiss", "install another")
    assert (check.passed, check.optional) == (False, True)
    assert check.found.endswith("for the CPU")


def test_a_package_that_is_not_there_is_told_with_the_remedy() -> None:
    check = module.check_gpu_package("CuPy", "no_such_module", "install it")
    assert (check.passed, check.remedy) == (False, "install it")
