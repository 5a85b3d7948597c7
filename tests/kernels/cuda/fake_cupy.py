"""As much of CuPy as the wrappers of kernels use, on the CPU: arrays are NumPy's, kernels run in the emulator.

    cupy = install(monkeypatch)        # `import cupy` now gives this; it counts cupy.launches and cupy.syncs
    items = cupy.asarray(array)        # takes the GPU's path through the public functions
    cupy.order = 3                     # the order of threads in launches from now on, see emulator.py
    cupy.text = mutant                 # the source of whatever kernel is launched from now on
    cupy.overruns = True               # launches look for accesses out of bounds instead of races

Stricter than CuPy where that finds mistakes: empty arrays hold junk; a Python number is no argument of a kernel (CuPy
would pass 8 bytes), nor is None (CuPy would crash) or an array of another library; no grid is empty (CuPy would launch
a block); and an array's type must be the kernel's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda import emulator

JUNK = 0x7F


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    """NumPy's array under the name of CuPy's, so that nobody takes it for an array of the CPU."""

    fake: FakeCupy

    def get(self) -> np.ndarray:
        """A copy for the CPU, for which a GPU would be waited for."""
        self.fake.syncs += 1
        return np.array(self)

    def item(self, *index: int) -> Any:
        self.fake.syncs += 1
        return super().item(*index)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


ndarray.__module__ = "cupy"


class RawModule:
    """Kernels of one source text, built on their first launch."""

    def __init__(self, fake: FakeCupy, code: str, options: Sequence[str]) -> None:
        self.fake, self.code, self.options = fake, code, tuple(options)

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self, name)


class Module(RawModule):
    """Kernels of machine code, which is here what `machine_code` below makes of a source."""

    def __init__(self, fake: FakeCupy) -> None:
        super().__init__(fake, "", ())

    def load(self, code: bytes) -> None:
        self.code, self.options = json.loads(code)


class RawKernel:
    """Called as CuPy's: kernel(grid, block, arguments, shared_mem=bytes)."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        fake = self.module.fake
        for arg in args:
            if not isinstance(arg, ndarray | np.generic):
                raise TypeError(f"unsupported argument of a kernel: {type(arg).__name__}")
        if 0 in grid:
            raise ValueError(f"grid {grid}: CuPy would launch one block")
        program = emulator.build(fake.text or self.module.code, self.name, self.module.options, overruns=fake.overruns)
        emulator.launch(program, grid, block, args, shared_bytes=shared_mem, order=fake.order)
        fake.launches += 1


class FakeCupy(ModuleType):
    """The module `cupy`."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.launches = self.syncs = self.order = 0
        self.overruns, self.text = False, ""
        self.ndarray = type("ndarray", (ndarray,), {"fake": self, "__module__": "cupy"})
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: 0),
            Device=lambda: SimpleNamespace(compute_capability="90"),
            Module=lambda: Module(self),
        )

    def RawModule(self, *, code: str, options: Sequence[str] = ()) -> RawModule:  # noqa: N802
        return RawModule(self, code, options)

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        return np.asarray(array, dtype).view(self.ndarray)

    def ascontiguousarray(self, array: Any, dtype: Any = None) -> Any:
        return np.ascontiguousarray(array, dtype).view(self.ndarray)

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Any:
        return np.full(shape, value, dtype).view(self.ndarray)

    def zeros(self, shape: Any, dtype: Any = np.float64) -> Any:
        return self.full(shape, 0, dtype)

    def empty(self, shape: Any, dtype: Any = np.float64) -> Any:
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = JUNK
        return array.view(self.ndarray)

    def from_dlpack(self, array: Any) -> Any:
        return np.from_dlpack(array).view(self.ndarray)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """Make `import cupy` give a fresh fake until the test ends, and forget kernels that were compiled before."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr("shortlist.kernels.gpu._KERNELS", {})
    monkeypatch.setattr("shortlist.kernels.gpu.machine_code", machine_code)
    return fake


def machine_code(source: Path, options: Sequence[str], architecture: str) -> tuple[bytes, str]:
    """What the emulator needs to build the kernel, in place of what the GPU needs to run it."""
    return json.dumps([source.read_text(), options]).encode(), ""
