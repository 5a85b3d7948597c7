"""Finds a Triton server to run: `tritonserver` on PATH, or the one inside the nvidia-pytriton wheel.

The wheel's server is copied into a cache folder of ours, because the stub of this Python has to stand beside the
backend and nobody should write into site-packages. Starting and stopping it is the business of `process`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shortlist.errors import ServerError

WHEEL = "nvidia-pytriton"
STUB = Path("backends", "python", "triton_python_backend_stub")
_NEEDED = (
    Path("bin", "tritonserver"),
    Path("backends", "python", "libtriton_python.so"),
    Path("backends", "python", "triton_python_backend_utils.py"),
)


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A Triton server with a Python backend, and the folders its libraries come from."""

    root: Path
    origin: str  # for people: where it was found
    library_path: tuple[Path, ...]

    @property
    def server(self) -> Path:
        """The executable."""
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process that hosts one Python model instance."""
        return self.root / STUB

    def environment(self) -> dict[str, str]:
        """Variables for the server: its libraries, this Python for its stubs, one thread for each numerical library.

        The stub runs isolated (it ignores PYTHONPATH and its kin) and finds site-packages through the first `python3`
        on PATH, so this interpreter's folder comes first.
        """
        inherited = one_thread_each()
        inherited.pop("PYTHONHOME", None)
        return {
            **inherited,
            "ORT_DISABLE_TELEMETRY": "1",
            "PATH": _joined([Path(sys.executable).parent], inherited.get("PATH")),
            "LD_LIBRARY_PATH": _joined(self.library_path, inherited.get("LD_LIBRARY_PATH")),
            "NUMBA_CACHE_DIR": inherited.get("NUMBA_CACHE_DIR") or str(default_cache() / "numba"),
        }


def one_thread_each() -> dict[str, str]:
    """This process's environment, with one thread for each numerical library: there is a process for each core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1")}


def find_triton(cache: Path | None = None) -> TritonInstall:
    """The Triton of this machine, ready to start.

    `cache` is where the wheel's server is copied to (default: $XDG_CACHE_HOME/shortlist). Raises ServerError when
    there is no Triton, or the copy cannot be made.
    """
    python_libraries = tuple(Path(d) for d in [sysconfig.get_config_var("LIBDIR")] if d)
    on_path = shutil.which("tritonserver")
    if on_path:
        root = Path(on_path).resolve().parent.parent
        return TritonInstall(root, f"{on_path} (on PATH)", python_libraries)
    package = _wheel_package()
    libraries = (package.parent / "nvidia_pytriton.libs", *python_libraries)
    root = unpack(package / "tritonserver", (cache or default_cache()).resolve() / f"triton-{_wheel_version()}")
    return TritonInstall(root, f"{root} (from the {WHEEL} wheel)", libraries)


def default_cache() -> Path:
    """The user's cache folder for Shortlist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shortlist"


def unpack(source: Path, target: Path) -> Path:
    """Copy the wheel's `source` to `target` with the stub of this Python in place; it appears complete or not at all.

    A copy that is already there and whole is used as it is. Raises ServerError when the disk refuses.
    """
    if _whole(source, target):
        return target
    stub = source / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerError(
            f"{stub}: the {WHEEL} wheel has no stub for Python {_python_version()}; use Python 3.11 or 3.12"
        )
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        shutil.copytree(source, staging / "new", ignore=shutil.ignore_patterns("python_backend_stubs", "__pycache__"))
        shutil.copy2(stub, staging / "new" / STUB)
        if _whole(source, target):  # another process was faster
            return target
        if target.exists():
            target.rename(staging / "old")
        (staging / "new").rename(target)
    except OSError as error:
        if not _whole(source, target):
            raise ServerError(
                f"{target}: cannot copy Triton there ({error.strerror or error}); "
                "free space, or point XDG_CACHE_HOME elsewhere"
            ) from error
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _whole(source: Path, target: Path) -> bool:
    """Whether every needed file is in `target` with the size it has in the wheel."""
    stub = source / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"
    pairs = [(source / name, target / name) for name in _NEEDED] + [(stub, target / STUB)]
    try:
        return all(a.stat().st_size == b.stat().st_size for a, b in pairs)
    except OSError:
        return False


def _wheel_package() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError(
            "tritonserver is not on PATH and the nvidia-pytriton wheel is not installed; "
            "run inside NVIDIA's Triton image, or: pip install nvidia-pytriton==0.7.0"
        )
    package = Path(spec.origin).parent
    if not (package / "tritonserver" / "bin" / "tritonserver").is_file():
        raise ServerError(
            f"{package}: this {WHEEL} has no tritonserver in it; pip install --force-reinstall {WHEEL}==0.7.0"
        )
    return package


def _wheel_version() -> str:
    return f"{importlib.metadata.version(WHEEL)}-cp{sys.version_info.major}{sys.version_info.minor}"


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _joined(folders: tuple[Path, ...] | list[Path], inherited: str | None) -> str:
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
