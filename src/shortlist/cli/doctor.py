"""`shortlist doctor`: is this machine fit to train and serve, and if not, what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.errors import ServerError, install_hint

if TYPE_CHECKING:
    from rich.table import Table

    from shortlist.serving.triton import TritonInstall

GIGABYTE = 1e9
PYTHONS = ((3, 11), (3, 12))
EXTRAS = {"implicit": "baselines", "pytest": "dev", "mypy": "dev"}  # module -> extra
GPU_PACKAGES = {  # name -> module, what to do
    "CuPy": ("cupy", install_hint("gpu")),
    "TensorRT": ("tensorrt", "use the image of Dockerfile.gpu, or pip install tensorrt-cu12"),
    "FAISS": ("faiss", "pip install faiss-gpu-cu12 in place of faiss-cpu"),
}
PROBE = """
import numpy as np
import shortlist.serving.model


class TritonPythonModel:
    def initialize(self, args):
        assert np.zeros(1).sum() == 0
"""
PROBE_CONFIG = 'backend: "python"\ninstance_group [{ kind: KIND_CPU count: 1 }]\n'


@dataclass(frozen=True, slots=True)
class Check:
    """The finding of one check; `remedy` is what to do when it failed."""

    name: str
    passed: bool
    found: str
    remedy: str = ""
    optional: bool = False


def doctor(
    host: Annotated[str, typer.Option(help="Address that the server would listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="Port that it would use for gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Port that it would use for metrics.")] = 8002,
) -> None:
    """Check the machine: Python, Triton, ports, memory, disk. Exit code 1 when a check fails.

    Example: shortlist doctor --grpc-port 9001
    """
    from rich.console import Console

    checks = list(examine(host, grpc_port, metrics_port))
    Console().print(findings(checks))
    if not all(check.passed or check.optional for check in checks):
        raise typer.Exit(1)


def examine(host: str, grpc_port: int, metrics_port: int) -> Iterator[Check]:
    """Every check, in the order in which failures build on each other."""
    yield check_python()
    yield check_numpy()
    yield check_providers()
    yield from check_triton()
    yield check_ports(host, grpc_port, metrics_port)
    yield check_room("disk here", shutil.disk_usage(".").free, 2 * GIGABYTE, "free space, or work on another disk")
    yield check_room("memory", _available_memory(), 2 * GIGABYTE, "stop other programs, or serve fewer --instances")
    yield check_room(
        "/dev/shm", shutil.disk_usage("/dev/shm").free, 0.064 * GIGABYTE, "in Docker: --shm-size=256m or more"
    )
    yield from (check_extra(module, extra) for module, extra in EXTRAS.items())
    yield from check_gpu()


def findings(checks: list[Check]) -> Table:
    """One row a check, and what to do for those that failed."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("check", "", "found", "what to do")
    for check in checks:
        state = "[green]ok[/green]" if check.passed else "[dim]absent[/dim]" if check.optional else "[red]FAILED[/red]"
        table.add_row(check.name, state, escape(check.found), "" if check.passed else escape(check.remedy))
    return table


def check_python() -> Check:
    """Triton's stubs exist for some versions only."""
    version = sys.version_info[:2]
    return Check("Python", version in PYTHONS, sys.version.split()[0], "use Python 3.11 or 3.12")


def check_numpy() -> Check:
    """With NumPy 2 this Triton answers empty tensors, without an error."""
    import numpy as np

    remedy = "pip install 'numpy==1.26.4' (with 2 this Triton answers empty tensors)"
    return Check("NumPy below 2", np.__version__.startswith("1."), np.__version__, remedy)


def check_providers() -> Check:
    """ONNX Runtime can run on the CPU."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return Check("ONNX Runtime", "CPUExecutionProvider" in providers, ", ".join(providers), "pip install onnxruntime")


def check_triton() -> Iterator[Check]:
    """Triton is there, its stub finds libpython, and it loads a Python model that imports shortlist."""
    from shortlist.serving.triton import find_triton

    try:
        install = find_triton()
    except ServerError as error:
        yield Check("Triton", False, "none", str(error))
        return
    yield Check("Triton", True, install.origin)
    yield check_stub(install)
    yield check_start(install)


def check_stub(install: TritonInstall) -> Check:
    """Every library of the Python stub resolves, libpython above all."""
    name = "stub's libraries"
    remedy = "install this Python's shared library (libpython3.x.so; apt: libpython3.x, pyenv: --enable-shared)"
    if not install.stub.is_file():
        return Check(name, False, f"{install.stub} is missing", "delete its folder and run doctor again")
    if shutil.which("ldd") is None:
        return Check(name, True, "not checked: this machine has no ldd", optional=True)
    listed = subprocess.run(
        ["ldd", str(install.stub)], env=install.environment(), capture_output=True, text=True, check=False
    ).stdout
    missing = re.findall(r"(\S+) => not found", listed)
    python = re.search(r"libpython\S+ => (\S+)", listed)
    found = f"missing: {', '.join(missing)}" if missing else python[1] if python else "all found"
    return Check(name, not missing, found, remedy)


def check_start(install: TritonInstall) -> Check:
    """A server starts on free ports and loads a small Python model."""
    name = "Triton starts"
    try:
        seconds = time_start(install)
    except ServerError as error:
        return Check(name, False, str(error), "read the message; `shortlist serve --verbose` shows all of Triton's log")
    return Check(name, True, f"and runs a Python model, {seconds:.1f} s")


def time_start(install: TritonInstall) -> float:
    """Seconds from nothing to a loaded model. Raises ServerError with Triton's reason."""
    import time

    from shortlist.serving.control import Control
    from shortlist.serving.process import TritonServer, free_address

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder, "probe", "1")
        version.mkdir(parents=True)
        (version / "model.py").write_text(PROBE, encoding="utf-8")
        (version.parent / "config.pbtxt").write_text(PROBE_CONFIG, encoding="utf-8")
        server = TritonServer(install, Path(folder), free_address(), key="doctor")
        control = Control(server.address, key="doctor")
        try:
            server.start()
            if not control.wait_until_live(lambda: server.alive, timeout=30):
                raise ServerError(server.log_tail[-500:] or "the server ended without a word")
            control.load(version.parent, version.name, timeout=60)
        finally:
            control.close()
            server.stop()
    return time.monotonic() - started


def check_ports(host: str, grpc_port: int, metrics_port: int) -> Check:
    """Nobody else listens where the server would."""
    from shortlist.serving.process import Address

    found = f"{host}: {grpc_port}, {metrics_port}"
    try:
        Address(host, grpc_port, metrics_port).check()
    except ServerError as error:
        return Check("ports", False, found, str(error))
    return Check("ports", True, found)


def check_room(name: str, free: float, needed: float, remedy: str) -> Check:
    """At least `needed` bytes are free."""
    return Check(name, free >= needed, f"{free / GIGABYTE:.1f} GB free", f"{remedy} (needs {needed / GIGABYTE:g} GB)")


def check_extra(module: str, extra: str) -> Check:
    """An optional package; its absence is no failure."""
    there = importlib.util.find_spec(module) is not None
    return Check(f"extra {extra}: {module}", there, "installed" if there else "", install_hint(extra), optional=True)


def check_gpu() -> Iterator[Check]:
    """What serving on a GPU needs. None of it is missed on a machine that serves on the CPU."""
    from shortlist.export.tensorrt import device_capability

    sm = device_capability()
    found = "" if sm is None else f"compute capability {sm // 10}.{sm % 10}"
    yield Check("GPU", sm is not None, found, "none is needed for the CPU; else check the driver: nvidia-smi", True)
    for name, (module, remedy) in GPU_PACKAGES.items():
        yield check_gpu_package(name, module, remedy)


def check_gpu_package(name: str, module: str, remedy: str) -> Check:
    """A package that works with a GPU; being there proves no GPU."""
    try:
        package = importlib.import_module(module)
    except ImportError as error:
        return Check(f"GPU: {name}", False, str(error), remedy, optional=True)
    suited = module != "faiss" or hasattr(package, "StandardGpuResources")
    found = f"{module} {package.__version__}{'' if suited else ', for the CPU'}"
    return Check(f"GPU: {name}", suited, found, remedy, optional=True)


def _available_memory() -> float:
    import psutil

    return float(psutil.virtual_memory().available)
