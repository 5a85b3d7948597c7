"""Builds CUDA kernels with g++ and runs them on the CPU, each launch in its own process, as wrong kernels may crash.

    kernel = build(Path("kernels/mmr/mmr.cu"), "mmr", ("-DDIM=8", "-DITEM=float"))    # options as NVRTC gets them
    launch(kernel, grid=(3,), block=(64,), arguments=(items, np.int32(5), picks), shared_bytes=256, order=2)

`launch` writes what the kernel wrote into the NumPy arrays among its arguments; scalars are NumPy scalars of the very
type that the kernel takes; np.uintp(0) is a null pointer. `order` shuffles the threads: 0 up, 1 down; 2, 4, … let one
warp run as far ahead as it can; 3, 5, … mix the warps. A race (two threads touch a byte, one of them writes, no barrier
between) and barrier divergence raise KernelError whatever the order. `build(…, overruns=True)` looks for accesses out
of bounds instead of races. `mutants(flatten(path), pattern, replacement)` yields copies of a source with one match
replaced in each: wrong kernels, to show that they are found out.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "kernels"
DECLARATION = r"((?:\w+ )+)(\w+)"  # type and name
# Fortified, longjmp takes a jump between fibers for an attack.
LANGUAGE = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE", "-w")
RACES = ("-fsanitize=thread",)  # its calls are answered by cuda_on_cpu.cpp, so the library is not linked
OVERRUNS = ("-fsanitize=address",)


class KernelError(RuntimeError):
    """A kernel crashed, raced, diverged, ran out of bounds or did not end."""


def build(source: Path | str, name: str, options: Sequence[str] = (), *, overruns: bool = False) -> Path:
    """The executable of kernel `name` in a file, or in a text; `options` other than -D are ignored."""
    return _build(_as_cpp(flatten(source)), name, tuple(o for o in options if o.startswith("-D")), overruns)


def launch(
    kernel: Path,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    *,
    shared_bytes: int = 0,
    order: int = 0,
    seconds: float = 20,
) -> None:
    """Run one launch, and write its results into the arrays among `arguments`. Raises KernelError."""
    sizes = (*grid, 1, 1)[:3] + (*block, 1, 1)[:3]
    message = _numbers(*sizes, shared_bytes, order, len(arguments)) + b"".join(map(_describe, arguments))
    try:
        process = subprocess.run([str(kernel)], input=message, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise KernelError(f"no end after {seconds:g} s") from None
    if process.returncode:
        report = process.stderr.decode(errors="replace").strip()
        raise KernelError(report or f"ended by signal {-process.returncode}")
    _store(process.stdout, arguments)


def mutants(text: str, pattern: str, replacement: str) -> Iterator[tuple[int, str]]:
    """Copies of `text` with one match of the regular expression replaced in each, and the number of the line."""
    for match in re.finditer(pattern, text):
        mutant = text[: match.start()] + match.expand(replacement) + text[match.end() :]
        yield text.count("\n", 0, match.start()) + 1, mutant


def flatten(source: Path | str) -> str:
    """The text of a kernel with our own headers in place of their #include lines, so that they can be mutated too."""
    seen: set[str] = set()

    def expand(text: str) -> str:
        return re.sub(r'#include "(\w+\.cuh)"', include, text.replace("#pragma once", ""))

    def include(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return expand((KERNELS / name).read_text())

    return expand(source.read_text() if isinstance(source, Path) else source)


def _numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _describe(argument: Any) -> bytes:
    if not isinstance(argument, np.ndarray | np.generic):
        raise TypeError(f"{argument!r} has no width: kernels take arrays and NumPy scalars such as np.int32(7)")
    code, memory = argument.dtype.char.replace("q", "l").replace("Q", "L"), argument
    if isinstance(argument, np.ndarray) and not argument.flags.c_contiguous:
        memory = _span(argument)
    return _numbers(ord(code), isinstance(argument, np.ndarray), memory.nbytes) + memory.tobytes()


def _span(array: Any) -> Any:
    """All memory from the first element to the last of an array whose rows lie apart."""
    if array.ndim != 2 or array.strides[1] != array.itemsize or array.strides[0] % array.itemsize:
        raise TypeError("kernels take arrays that are contiguous, at least in each row of two dimensions")
    stride, (count, width) = array.strides[0] // array.itemsize, array.shape
    return np.lib.stride_tricks.as_strided(array, ((count - 1) * stride + width,), (array.itemsize,))


def _store(results: bytes, arguments: Sequence[Any]) -> None:
    at = 0
    for array in arguments:
        if not isinstance(array, np.ndarray):
            continue
        is_written, at = results[at], at + 1
        if is_written:
            assert array.flags.c_contiguous, "kernels write to contiguous arrays"
            flat = np.frombuffer(results, array.dtype, array.size, at)
            np.copyto(array, flat.reshape(array.shape))
            at += array.nbytes


@functools.cache
def _build(text: str, name: str, options: tuple[str, ...], overruns: bool) -> Path:
    key = hashlib.sha256(repr((text, name, options, overruns)).encode()).hexdigest()[:16]
    source, program = _folder() / f"{key}.cu", _folder() / key
    source.write_text(f'#include "cuda_on_cpu.h"\n#line 1 "{name}.cu"\n{text}\n' + _main(name))
    includes = (f"-I{HERE}", f"-I{KERNELS}")
    sanitizer = OVERRUNS if overruns else RACES
    _compile(*LANGUAGE, *sanitizer, *options, *includes, "-x", "c++", "-c", str(source), "-o", f"{program}.o")
    _compile(f"{program}.o", str(_runtime(overruns)), *(OVERRUNS if overruns else ()), "-o", str(program))
    return program


def _as_cpp(text: str) -> str:
    """C++ has no word for variables of a block: they become references to memory of exactly their size."""
    text = re.sub(rf"extern __shared__ {DECLARATION}\[\];", r"\1* \2 = (\1*)cuda::dynamic_shared();", text)
    count = itertools.count()

    def refer(match: re.Match[str]) -> str:
        kind, name, sizes = match.groups()
        return f"typedef {kind} {name}_type{sizes}; {name}_type& {name} = cuda::shared<{name}_type, {next(count)}>();"

    text = re.sub(
        rf"__shared__ {DECLARATION}((?:\[[^\];]*\])*);", refer, re.sub(r"alignas\(\d+\) (?=__shared__)", "", text)
    )
    if left := re.search(r"^.*__shared__.*$", re.sub(r"//.*", "", text), re.MULTILINE):
        raise ValueError(f"not understood, declare one variable of a named type: {left[0].strip()}")
    return text


def _main(name: str) -> str:
    return f"int main() {{ return cuda::serve({name}); }}\n"


@functools.cache
def _runtime(overruns: bool) -> Path:
    path = _folder() / f"runtime{overruns:d}.o"
    choice = "-DSWAP_CONTEXTS" if overruns else "-DWATCH_RACES"
    _compile(*LANGUAGE, choice, "-c", str(HERE / "cuda_on_cpu.cpp"), "-o", str(path))
    return path


@functools.cache
def _folder() -> Path:
    """Where this process keeps what it compiled."""
    folder = tempfile.mkdtemp(prefix="cuda-on-cpu-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def _compile(*arguments: str) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("g++ is not installed, and these tests run CUDA kernels on the CPU with it: apt install g++")
    process = subprocess.run([compiler, *arguments], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"g++ refused the kernel:\n{process.stderr}")
