"""What a compiled kernel needs of a multiprocessor, and how much of the multiprocessor it can fill. Needs no GPU.

From the assembler's report (registers, shared memory, spills) follows how many threads a multiprocessor of each
architecture can hold. What is compiled, and with which constants, is said by the callers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist.kernels.nvidia import CompileError, machine_code

RESERVED = 1024  # bytes of shared memory that the system takes for each block


@dataclass(frozen=True)
class Architecture:
    """What one multiprocessor holds (CUDA programming guide, table of technical specifications)."""

    example: str
    warps: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536


ARCHITECTURES = {
    "sm_80": Architecture("A100", 64, 32, 164 * 1024),
    "sm_89": Architecture("L4", 48, 24, 100 * 1024),
    "sm_90": Architecture("H100", 64, 32, 228 * 1024),
    "sm_120": Architecture("RTX PRO 6000", 48, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled kernel needs."""

    registers: int  # per thread
    shared: int  # bytes, static and dynamic
    spilled: int  # bytes of registers kept in memory instead: stores and loads


@dataclass(frozen=True)
class Occupancy:
    """The fraction of a multiprocessor's threads that may be resident, and what keeps it from more."""

    fraction: float
    limited_by: str


def compile_source(source: Path, options: Sequence[str], architecture: str, dynamic_shared: int = 0) -> Resources:
    """Resources of the one kernel in `source`, compiled for `architecture` ("sm_90") with options of `gpu.options`.

    Raises CompileError, and ModuleNotFoundError where NVIDIA's packages are missing.
    """
    _, log = machine_code(source, (*options, "--ptxas-options=-v"), architecture)
    return read_report(log, dynamic_shared)


def read_report(log: str, dynamic_shared: int = 0) -> Resources:
    """Resources from the report of `ptxas -v` on one kernel."""
    used, spilled = re.findall(r"Used (\d+) registers", log), re.findall(r"(\d+) bytes spill", log)
    if len(used) != 1:
        raise CompileError(f"expected the report of one kernel, found {len(used)}:\n{log}")
    shared = re.search(r"(\d+) bytes smem", log)
    return Resources(int(used[0]), int(shared[1] if shared else 0) + dynamic_shared, sum(map(int, spilled)))


def occupancy(architecture: Architecture, threads: int, resources: Resources) -> Occupancy:
    """Theoretical occupancy of blocks of `threads`. Registers are given out by 256 to a warp, to four warps at once."""
    warps = _up(threads, 32) // 32
    warps_by_registers = architecture.registers // _up(32 * resources.registers, 256) // 4 * 4
    blocks = {
        "threads": architecture.warps // warps,
        "blocks": architecture.blocks,
        "registers": warps_by_registers // warps,
        "shared memory": architecture.shared // _up(resources.shared + RESERVED, 128),
    }
    limit = min(blocks, key=lambda name: blocks[name])
    return Occupancy(blocks[limit] * warps / architecture.warps, limit)


def _up(number: int, multiple: int) -> int:
    return (number + multiple - 1) // multiple * multiple
