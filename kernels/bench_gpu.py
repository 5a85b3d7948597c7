"""What `make bench-gpu` runs on a machine with a GPU: are the kernels right there, and how close to their floor?

    python -m shortlist.kernels.bench_gpu [--json]

First every kernel must equal its reference, bit by bit, on awkward shapes and on those that are timed; else nothing is
timed. Times are medians by device events, with the L2 cache flushed before each launch ("cold") and not ("warm"). The
floor is that of `roofline`, with the empty launch measured here; `gpu_jobs` has the work and its rivals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from shortlist.kernels.arrays import import_cupy, why_no_gpu
from shortlist.kernels.gpu import options
from shortlist.kernels.gpu_jobs import AWKWARD, STANDARD, TABLE, Build, Job
from shortlist.kernels.report import table
from shortlist.kernels.roofline import MACHINES, Machine, floor

REPEATS = 50
SMALL_TABLE = 5000
FLUSH = 512 << 20  # bytes: more than any L2 cache, and long enough that launches queue up behind it
EMPTY = 'extern "C" __global__ void empty() {}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison. The status is 1 where a kernel is wrong, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m shortlist.kernels.bench_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(arguments)
    missing = why_no_gpu()
    if missing:
        print(f"bench-gpu needs an NVIDIA GPU: {missing}", file=sys.stderr)
        return 2
    cupy = import_cupy()
    wrong = wrong_jobs(cupy, AWKWARD, SMALL_TABLE) + wrong_jobs(cupy, STANDARD, TABLE)
    if wrong:
        print(f"wrong on this GPU, so nothing was timed: {', '.join(wrong)}", file=sys.stderr)
        return 1
    found = measure(cupy, STANDARD, TABLE, REPEATS, FLUSH)
    print(json.dumps(found, indent=2) if chosen.json else as_text(found))
    return 0


def wrong_jobs(cupy: Any, builds: Sequence[Build], rows: int) -> list[str]:
    """Names of the jobs whose results are not the reference's, on tables of `rows` items."""
    return [job.name for job in (build(cupy, rows) for build in builds) if not is_right(job)]


def is_right(job: Job) -> bool:
    """Whether all arrays of the result have the reference's bits."""
    pairs = zip(job.ours(), job.expected(), strict=True)
    return all(found.get().tobytes() == expected.tobytes() for found, expected in pairs)


def measure(cupy: Any, builds: Sequence[Build], rows: int, repeats: int, flush: int) -> dict[str, Any]:
    """Times of all jobs and their rivals in microseconds, and the floors, on the current device."""
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    machine = machine_of(properties)
    scratch = cupy.empty(flush, np.uint8)
    kernel = cupy.RawModule(code=EMPTY, options=options()).get_function("empty")
    empty = timed(cupy, lambda: kernel((1,), (32,), ()), lambda: scratch.fill(0), repeats)
    jobs = []
    for build in builds:
        job = build(cupy, rows)
        jobs.append(measure_job(cupy, job, machine, empty, scratch, repeats))
    return {"device": _name(properties), "assumed": machine.name, "empty_launch_us": round(empty, 2), "jobs": jobs}


def measure_job(cupy: Any, job: Job, machine: Machine, empty: float, scratch: Any, repeats: int) -> dict[str, Any]:
    """Times of one job: ours cold, warm and on the CPU, and how many times as long the rivals take, cold."""

    def cold() -> None:
        scratch.fill(0)

    def warm(call: Callable[[], Any]) -> None:
        scratch.fill(0)
        call()

    least = floor(job.work, machine, empty)
    ours = timed(cupy, job.ours, cold, repeats)
    rivals = {name: timed(cupy, call, cold, repeats) for name, call in job.rivals.items()}
    return {
        "job": job.name,
        "floor_us": round(least.microseconds, 2),
        "bound": least.bound,
        "cold_us": round(ours, 2),
        "warm_us": round(timed(cupy, job.ours, lambda: warm(job.ours), repeats), 2),
        "cpu_us": round(host_time(cupy, job.ours, repeats), 2),
        "fraction_of_floor": round(least.microseconds / ours, 3) if ours else None,
        "rivals": {
            name: {"us": round(us, 2), "times": round(us / ours, 2) if ours else None, "agrees": agreement(job, name)}
            for name, us in rivals.items()
        },
    }


def timed(cupy: Any, call: Callable[[], Any], before: Callable[[], None], repeats: int) -> float:
    """Median microseconds of `call` between two device events, each time after `before`, which is not timed."""
    call()
    pairs = [(cupy.cuda.Event(), cupy.cuda.Event()) for _ in range(repeats)]
    for start, end in pairs:
        before()
        start.record()
        call()
        end.record()
    pairs[-1][1].synchronize()
    return 1e3 * median(float(cupy.cuda.get_elapsed_time(start, end)) for start, end in pairs)


def host_time(cupy: Any, call: Callable[[], Any], repeats: int) -> float:
    """Median microseconds that the CPU spends on one call, most of it in Python and the driver."""
    times = []
    for _ in range(repeats):
        cupy.cuda.get_current_stream().synchronize()
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return median(times)


def agreement(job: Job, rival: str) -> float:
    """Which fraction of the first array of results the rival has too: it rounds otherwise, but must do the same job."""
    ours, theirs = job.ours()[0], job.rivals[rival]()[0]
    return round(float(np.mean(ours.get() == to_numpy(theirs))), 4)


def to_numpy(array: Any) -> Any:
    """A CuPy array or a torch tensor, on the CPU."""
    return array.get() if hasattr(array, "get") else array.cpu().numpy()


def machine_of(properties: dict[str, Any]) -> Machine:
    """The machine of a device: from its data sheet where we have it, else from what the driver says."""
    name = _name(properties)
    if "H100" in name:
        return MACHINES["H100 PCIe" if "PCIe" in name else "H100 SXM"]
    if name.split()[-1] == "L4":
        return MACHINES["L4"]
    bandwidth = 2e3 * properties["memoryClockRate"] * properties["memoryBusWidth"] / 8  # two transfers a cycle
    return Machine(name, properties["multiProcessorCount"], properties["clockRate"] / 1e6, bandwidth, memory=600)


def _name(properties: dict[str, Any]) -> str:
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def as_text(found: dict[str, Any]) -> str:
    """What `measure` found, as a table."""
    lines = []
    for job in found["jobs"]:
        plain = {name: str(value) for name, value in job.items() if name != "rivals"}
        rivals = {f"{name}": f"{rival['us']} ({rival['times']}x)" for name, rival in job["rivals"].items()}
        lines.append({**plain, **{name: rivals.get(name, "-") for name in ("torch", "cupy")}})
    head = f"{found['device']}, floors of {found['assumed']}, empty launch {found['empty_launch_us']} us"
    return f"{head}\n\n{table(lines)}"


if __name__ == "__main__":
    sys.exit(main())
