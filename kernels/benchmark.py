"""The CPU kernels against their rivals, on one thread, in one run: what `shortlist bench kernels` reports.

What each rival does, and on which data, is said by the `benchmark` module beside each kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.table import Table
from threadpoolctl import threadpool_limits

from shortlist.kernels.fuse_features import benchmark as fuse_features
from shortlist.kernels.mmr import benchmark as mmr
from shortlist.kernels.timing import Cases, interleaved
from shortlist.kernels.top_k import benchmark as top_k

TOP_K_SHAPES = ((500, 100), (1682, 500))


def run(rounds: int = 30, table: int = 1_000_000) -> dict[str, Any]:
    """Median times and ratios as plain numbers, ready for JSON.

    `table` is the number of items that features are gathered from; a smaller one may fit a cache and flatter everyone.
    """
    with threadpool_limits(1):
        return {
            "mmr": _speedups(mmr.cases(), rounds),
            "fuse_features": _fuse_features("int8", rounds, table),
            "fuse_features_float16": _fuse_features("float16", rounds, table),
            **{f"top_k_{k}_of_{n}": _speedups(top_k.cases(count=n, k=k), rounds) for n, k in TOP_K_SHAPES},
            "machine": {"processor": _processor(), "numpy": np.__version__, "rounds": rounds, "table": table},
        }


def tables(report: Mapping[str, Any]) -> Iterable[Table]:
    """The report for the terminal: one line for each number."""
    for kernel, numbers in report.items():
        shown = Table(kernel, "", show_header=True)
        for name, value in numbers.items():
            shown.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
        yield shown


def _speedups(cases: Cases, rounds: int) -> dict[str, float]:
    """Microseconds that our version takes for the batch, and how many times longer each rival takes."""
    medians = interleaved(cases, rounds)
    ours = medians.pop("shortlist")
    return {f"speedup_vs_{rival}": seconds / ours for rival, seconds in medians.items()} | {"us_per_batch": 1e6 * ours}


def _fuse_features(item_type: str, rounds: int, table: int) -> dict[str, float]:
    """Speed-ups, and the share of the roofline that is reached.

    `speedup_vs_numpy` is the same as `speedup_vs_best_of_numpy_and_torch`: against the better vectorised version.
    """
    medians = interleaved(fuse_features.cases(item_type, table), rounds)
    ours = medians["shortlist"]
    best = min(medians["numpy"], medians["torch"]) / ours
    moved = fuse_features.moved(item_type)
    return {
        "speedup_vs_best_of_numpy_and_torch": best,
        "speedup_vs_numpy": best,
        "speedup_vs_numpy_alone": medians["numpy"] / ours,
        "speedup_vs_torch": medians["torch"] / ours,
        "fraction_of_bandwidth": medians["gather"] / ours,
        "bandwidth_gb_per_s": moved / medians["gather"] / 1e9,
        "us_per_batch": 1e6 * ours,
    }


def _processor() -> str:
    """The name that Linux gives the processor, where it tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
