"""The container's life on a machine without a GPU: a real export, a real Triton, the health check, and the end."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shortlist.serving.process import Address, free_address
from tests.deploy.files import CANARY, ENTRYPOINT, MONITORING
from tests.factories import make_bundle


@dataclass
class Container:
    """A started entrypoint and where it serves."""

    process: "subprocess.Popen[str]"
    address: Address
    models: Path


def start(bundle: Path, models: Path, address: Address) -> "subprocess.Popen[str]":
    """Run the entrypoint as the image does, for the CPU."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SHORTLIST_BUNDLE": str(bundle),
        "SHORTLIST_MODELS": str(models),
        "SHORTLIST_TARGET": "cpu",
    }
    ports = ["--grpc-port", str(address.grpc_port), "--metrics-port", str(address.metrics_port)]
    return subprocess.Popen(
        [ENTRYPOINT, "--host", "0.0.0.0", *ports, "--instances", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def canary(port: int) -> "subprocess.CompletedProcess[str]":
    """Run the health check as the probes do."""
    command = [sys.executable, CANARY, "--port", str(port), "--timeout", "30"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    address = free_address()
    process = start(make_bundle(folder / "bundle"), folder / "models", address)
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "Ctrl-C stops" in line:
            break
    assert "Ctrl-C stops" in printed, printed
    yield Container(process, address, folder / "models")
    process.kill()
    process.communicate()


def test_the_first_start_builds_the_repository(container: Container) -> None:
    assert (container.models / "cpu" / "cascade" / "1" / "bundle" / "manifest.json").is_file()


def test_the_health_check_passes_while_it_answers(container: Container) -> None:
    assert canary(container.address.grpc_port).returncode == 0


def test_the_health_check_fails_where_nobody_answers() -> None:
    checked = canary(free_address().grpc_port)
    assert checked.returncode == 1
    assert checked.stderr == "cascade does not answer: UNAVAILABLE\n"


def test_the_autoscaler_reads_metrics_that_the_server_has(container: Container) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{container.address.metrics_port}/metrics", timeout=60) as page:
        served = re.findall(r'^(nv_\w+)\{model="cascade"', page.read().decode(), flags=re.MULTILINE)
    read = re.findall(r"nv_\w+", (MONITORING / "adapter-rules.yaml").read_text())
    assert set(read) <= set(served)


def test_a_damaged_bundle_ends_the_container_and_names_the_file(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "ranker.onnx").write_bytes(b"damaged")
    process = start(bundle, tmp_path / "models", free_address())
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ranker.onnx" in printed


def test_sigterm_stops_the_server_cleanly(container: Container) -> None:
    container.process.send_signal(signal.SIGTERM)
    printed, _ = container.process.communicate(timeout=60)
    assert printed.strip() == "stopped"
    assert container.process.returncode == 0
