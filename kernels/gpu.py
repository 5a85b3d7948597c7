"""How every CUDA kernel is compiled, once per device and set of constants, and how it says what it refused.

Kernels are CUDA C++ beside this package; `nvidia` compiles them for the GPU at hand, CuPy loads and launches them. What
they compute is their own affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy
from shortlist.kernels.nvidia import machine_code

HERE = Path(__file__).parent
ITEM_TYPES = {"float32": "float", "float16": "__half", "int8": "signed char"}
NOTHING = np.int32(2**31 - 1)  # what `refused` holds where nothing was
NULL = np.uintp(0)  # the argument of a kernel for an array that there is not: CuPy crashes on None
_KERNELS: dict[tuple[Any, ...], Any] = {}


def options(**constants: int | str) -> tuple[str, ...]:
    """Compiler options that define `constants`; products and sums are never fused, so that all machines agree."""
    return ("-std=c++17", "-fmad=false", f"-I{HERE}", *(f"-D{name}={value}" for name, value in constants.items()))


def kernel(source: Path, name: str, **constants: int | str) -> Any:
    """Kernel `name` of a .cu file, compiled for the current device at the first launch with these constants.

    Call it as kernel(grid, block, arguments, shared_mem=bytes), with numbers as NumPy scalars of the kernel's types.
    """
    cupy = import_cupy()
    key = (cupy.cuda.runtime.getDevice(), source, name, *constants.items())
    found = _KERNELS.get(key)
    if found is None:
        architecture = f"sm_{cupy.cuda.Device().compute_capability}"
        module = cupy.cuda.Module()
        module.load(machine_code(source, options(**constants), architecture)[0])
        found = _KERNELS[key] = module.get_function(name)
    return found


def load_width(array: Any) -> int:
    """How many neighbouring columns of a row-major [M, D] array one load may take: a power of two, at most 16 bytes.

    Rows and the array itself must start at multiples of a load.
    """
    width = 16 // array.itemsize
    while array.shape[1] % width or array.data.ptr % (width * array.itemsize):
        width //= 2
    return int(width)


def new_refused(checks: int) -> Any:
    """An int32 array for the flat index of the first value that each of a kernel's `checks` refuses, NOTHING so far.

    Kernels take the minimum of it and what they refuse, so it serves many launches until something was refused.
    """
    return import_cupy().full(checks, NOTHING, np.int32)
