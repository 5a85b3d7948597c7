"""NVIDIA's run-time compiler, which needs no GPU: finding it where pip puts it, and calling it.

We compile by ourselves because CuPy would add -ftz=true, which flushes small numbers to 0, so that the bits differ from
those of the other versions, and because it would keep old machine code on disk when only a header changes. Loading and
launching is CuPy's.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from shortlist.errors import install_hint

NVRTC = "libnvrtc.so.12"


class CompileError(ValueError):
    """A source that does not compile; carries the compiler's log."""


def machine_code(source: Path, options: Sequence[str], architecture: str) -> tuple[bytes, str]:
    """The CUDA source, compiled for `architecture` ("sm_90"): the module to load, and the compiler's log.

    Raises CompileError, and ModuleNotFoundError where the compiler or its headers are missing.
    """
    compiler, program = nvrtc(), ctypes.c_void_p()
    chosen = [*options, f"-I{headers()}", f"-arch={architecture}"]
    _check(compiler.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None))
    try:
        arguments = (ctypes.c_char_p * len(chosen))(*(option.encode() for option in chosen))
        failed = compiler.nvrtcCompileProgram(program, len(chosen), arguments)
        log = _output(compiler, program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise CompileError(f"{source.name} with {' '.join(chosen)}:\n{log}")
        return _output(compiler, program, "CUBIN"), log
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _output(compiler: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(compiler[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(compiler[f"nvrtcGet{what}"](program, buffer))
    return buffer.raw


def _check(status: int) -> None:
    if status:
        raise CompileError(f"NVRTC error {status}")


@cache
def nvrtc() -> ctypes.CDLL:
    """The library, from pip's package or from the system; who asks for it by name later finds it loaded.

    Raises ModuleNotFoundError where it is in neither.
    """
    folder = package("cuda_nvrtc")
    try:
        return ctypes.CDLL(NVRTC if folder is None else str(folder / "lib" / NVRTC), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ModuleNotFoundError(f"{NVRTC} is missing: {install_hint('cuda')}") from error


def headers() -> Path:
    """The folder of cuda_fp16.h. Raises ModuleNotFoundError where pip's package of the headers is missing."""
    folder = package("cuda_runtime")
    if folder is None:
        raise ModuleNotFoundError(f"NVIDIA's CUDA headers are missing: {install_hint('cuda')}")
    return folder / "include"


def package(name: str) -> Path | None:
    """The folder of nvidia.`name` in site-packages; None where it is not installed."""
    try:
        found = importlib.util.find_spec(f"nvidia.{name}")
    except ModuleNotFoundError:
        return None
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places))) if places else None
