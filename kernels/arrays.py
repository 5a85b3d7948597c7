"""Which device arrays live on, and arrays of other libraries through DLPack. Imports no GPU library by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from shortlist.errors import install_hint
from shortlist.kernels.nvidia import nvrtc

_CPU, _CUDA = 1, 2  # DLPack's device types
LARGEST_COUNT = 2**63 - 1


def is_cupy(array: Any) -> bool:
    """Whether `array` is a CuPy array."""
    kind = type(array)
    return kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy"


def adopt(array: Any) -> Any:
    """`array` itself where it is NumPy's or CuPy's, else a view of it by DLPack, on its own device, without a copy.

    Raises TypeError for what is no array, and for devices other than CPU and CUDA.
    """
    if isinstance(array, np.ndarray) or is_cupy(array):
        return array
    if not hasattr(array, "__dlpack_device__"):
        raise TypeError(f"{type(array).__name__} is no array: NumPy, CuPy or anything with DLPack is allowed")
    device, number = array.__dlpack_device__()
    if device in (_CPU, _CUDA):
        library = np if device == _CPU else import_cupy()
        try:
            return library.from_dlpack(array)
        except (BufferError, RuntimeError) as error:  # a dtype NumPy lacks, a tensor that requires a gradient
            raise TypeError(f"{type(array).__name__} of {getattr(array, 'dtype', '?')}: {error}") from error
    raise TypeError(f"device type {device} (number {number}): only the CPU and CUDA devices are allowed")


def give_back(result: Any, like: Any) -> Any:
    """`result` as an array of the library that `like` came from."""
    if isinstance(like, np.ndarray) or is_cupy(like):
        return result
    from_dlpack: Callable[[Any], Any] = sys.modules[type(like).__module__.partition(".")[0]].from_dlpack
    return from_dlpack(result)


def check_apart(name: str, out: Any, inputs: dict[str, Any]) -> None:
    """Raise ValueError where `out` may lie in the memory of a NumPy input: these are checked once, then trusted."""
    for other, array in inputs.items():
        if isinstance(out, np.ndarray) and isinstance(array, np.ndarray) and np.may_share_memory(out, array):
            raise ValueError(f"{name}: shares memory with {other}; memory of its own is allowed")


def import_cupy() -> Any:
    """CuPy. Raises ModuleNotFoundError that names the extra to install."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"CuPy is not installed: {install_hint('gpu')}") from error
    with suppress(ModuleNotFoundError):
        nvrtc()  # CuPy compiles with it, and would not find pip's
    return cupy


def why_no_gpu() -> str:
    """Why no kernel can run on a GPU here, in one line; empty where one can."""
    try:
        cupy = import_cupy()
    except ImportError as error:  # also one that lacks its libraries
        return str(error)
    try:
        available = cupy.cuda.is_available()
    except RuntimeError as error:  # no driver, or one that is too old
        return f"there is no GPU: {error}"
    if available:
        return ""
    return "there is no GPU: CUDA sees none (a package built for GPUs, as onnxruntime-gpu or faiss-gpu, brings none)"


def check_integer(name: str, number: Any) -> None:
    """Raise TypeError or ValueError when the argument `name` is no integer, or too large for an array's length."""
    if type(number) is not int and not isinstance(number, np.integer):
        raise TypeError(f"{name} is {number!r}; an integer is allowed")
    if number > LARGEST_COUNT:
        raise ValueError(f"{name} is {number}; at most {LARGEST_COUNT} is allowed")
