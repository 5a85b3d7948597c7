"""What the compiler makes of the GPU kernels, and what a launch of them must cost: the tables of `make kernels-report`.

    python -m shortlist.kernels.report [--json]

Needs no GPU. `occupancy` compiles and `roofline` predicts; here is which shapes are looked at, and how it is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.kernels.fuse_features.gpu import plan as fuse_plan
from shortlist.kernels.gpu import options
from shortlist.kernels.mmr.gpu import CANDIDATE_BYTES
from shortlist.kernels.mmr.gpu import plan as greedy_plan
from shortlist.kernels.occupancy import ARCHITECTURES, compile_source, occupancy
from shortlist.kernels.roofline import MACHINES, Work, dpp, floor, fuse_features, mmr, score_pool, top_k
from shortlist.kernels.score_pool.gpu import THREADS as SCORE_POOL_THREADS
from shortlist.kernels.score_pool.gpu import plan as score_pool_plan
from shortlist.kernels.top_k.gpu import THREADS as TOP_K_THREADS
from shortlist.kernels.top_k.gpu import plan as top_k_plan

ENOUGH = 0.75  # occupancy below which a variant states its reason
WIDE_TILES = "wide rows take shared memory and registers; each thread's loads in flight keep the memory busy"


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants of one use."""

    kernel: str
    label: str
    constants: Mapping[str, int | str]
    threads: int
    dynamic_shared: int = 0
    reason: str = ""  # why its occupancy may be below 75 %


def _greedy(kernel: str, item_type: str, count: int, dim: int) -> Variant:
    constants = greedy_plan(item_type, dim, 16 // np.dtype(item_type).itemsize, count)
    label, shared = f"{item_type} N={count} D={dim}", CANDIDATE_BYTES * count
    return Variant(kernel, label, constants, int(constants["THREADS"]), shared)


def _fuse(items: str, features: str, width: int, load: int = 4, reason: str = "") -> Variant:
    constants = fuse_plan(items, features, min(width, 64), width, 2, 16, load)
    return Variant(
        "fuse_features", f"{items}→{features} W={width}", constants, 4 * int(constants["TILE"]), reason=reason
    )


def _score_pool(dim: int, load: int) -> Variant:
    return Variant("score_pool", f"D={dim} load={load}", {**score_pool_plan(dim, load)}, SCORE_POOL_THREADS)


def _top_k(count: int) -> Variant:
    return Variant("top_k", f"N={count}", {**top_k_plan(count)}, TOP_K_THREADS)


VARIANTS = (
    _greedy("mmr", "float16", 100, 64),
    _greedy("mmr", "float32", 100, 64),
    _greedy("mmr", "float16", 1024, 256),
    _greedy("dpp", "float16", 100, 64),
    _greedy("dpp", "float32", 100, 64),
    _greedy("dpp", "float16", 1024, 256),
    _fuse("int8", "uint8", 96),
    _fuse("int8", "int8", 96),
    _fuse("float16", "int8", 96),
    _fuse("float16", "float16", 96),
    _fuse("float32", "float32", 50, load=2),
    _fuse("float32", "float32", 96, reason=WIDE_TILES),
    _fuse("float16", "float16", 256, reason=WIDE_TILES),
    _score_pool(64, 4),
    _score_pool(256, 4),
    _score_pool(50, 2),
    _top_k(500),
    _top_k(2000),
    _top_k(8192),
)

JOBS: Mapping[str, Work] = {
    **{f"mmr B={b} N=100 D=64 K=10 float16": mmr(b, 100, 64, 10, 2) for b in (16, 64)},
    **{f"dpp B={b} N=100 D=64 K=10 float16": dpp(b, 100, 64, 10, 2) for b in (16, 64)},
    **{
        f"fuse_features B={b} N=500 W=96 D=64 C=2 S=16 int8": fuse_features(b, 500, 96, 64, 2, 16, 1, 1)
        for b in (16, 64)
    },
    **{f"score_pool B={b} N=2560 D=64": score_pool(b, 2560, 64) for b in (16, 64)},
    "top_k B=16 N=500 K=100": top_k(16, 500, 100, top_k_plan(500)["SLICE"], top_k_plan(500)["PARTS"]),
    "top_k B=16 N=8192 K=100": top_k(16, 8192, 100, top_k_plan(8192)["SLICE"], top_k_plan(8192)["PARTS"]),
}


def compiled(variant: Variant, architecture: str) -> dict[str, Any]:
    """What `variant` takes on `architecture`."""
    source = Path(__file__).parent / variant.kernel / f"{variant.kernel}.cu"
    resources = compile_source(source, options(**variant.constants), architecture, variant.dynamic_shared)
    resident = occupancy(ARCHITECTURES[architecture], variant.threads, resources)
    return {
        "kernel": variant.kernel,
        "variant": variant.label,
        "architecture": architecture,
        "threads": variant.threads,
        **asdict(resources),
        "occupancy": round(resident.fraction, 3),
        "limited_by": resident.limited_by,
        "reason": variant.reason if resident.fraction < ENOUGH else "",
    }


def predicted(job: str, work: Work) -> dict[str, Any]:
    """The floor of `work` on every machine, in microseconds, and what it is made of."""
    floors = {name: floor(work, machine) for name, machine in MACHINES.items()}
    return {
        "job": job,
        "bytes": work.bytes,
        "operations": work.operations,
        "blocks": work.blocks,
        **{name: f"{found.microseconds:.1f} ({found.bound})" for name, found in floors.items()},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as a Markdown table, aligned so that it also reads as text."""
    head = list(rows[0])
    cells = [head, *([_cell(row[name]) for name in head] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |" for line in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; the status is 1 where a kernel spills, or lacks both occupancy and a reason."""
    parser = argparse.ArgumentParser(prog="python -m shortlist.kernels.report", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    chosen = parser.parse_args(arguments)
    kernels = [compiled(variant, architecture) for variant in VARIANTS for architecture in ARCHITECTURES]
    floors = [predicted(job, work) for job, work in JOBS.items()]
    if chosen.json:
        print(json.dumps({"compiled": kernels, "predicted": floors}, indent=2))
    else:
        print(table(kernels), table(floors), sep="\n\n")
    return int(any(row["spilled"] or (row["occupancy"] < ENOUGH and not row["reason"]) for row in kernels))


if __name__ == "__main__":
    sys.exit(main())
