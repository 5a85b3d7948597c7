"""What the serving benchmark's figures come to: medians, ratios, and whether each target is met."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from statistics import median
from typing import Any

from rich.table import Table

from shortlist.serving.benchmark.run import CLIENTS, LOAD_SHARE, MANY

PACKAGES = ("faiss-cpu", "fastapi", "litserve", "nvidia-pytriton", "numpy", "onnxruntime", "uvicorn")
TARGETS = {  # name -> (must, stretch, whether more is better)
    "cpu_ratio_to_limit": (1.25, 1.1, False),
    "throughput_to_fastapi": (1.0, 1.3, True),
    "throughput_to_ensemble": (1.7, None, True),
    "p99_ms_at_70pct": (50.0, None, False),
    "p99_over_p50": (4.0, None, False),
    "growth": (2.0, None, False),
    "recall@500": (0.95, None, True),
}


def summarise(found: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """The report as plain numbers. Ratios are medians of each round's ratio, so that a slow round is no one's fault."""
    cases = found["cases"]
    medians = {name: _medians(rows) for name, rows in cases.items()}
    many = {name: f"{name}@{MANY}" for name in ("cascade", "ensemble", "litserve")}
    peer = max((f"fastapi@{MANY}", f"fastapi_batched@{MANY}"), key=lambda name: medians[name]["per_second"])
    rivals = {"fastapi": peer, "ensemble": many["ensemble"], "litserve": many["litserve"]}
    grown = f"large@{MANY}" in cases and _ratio(cases, f"large@{MANY}", f"small@{MANY}", "cpu_ms")
    summary: dict[str, Any] = {
        "cpu_ms_per_request": {
            "limit": medians[f"limit@{MANY}"]["cpu_ms"],
            "limit_alone": medians["limit@1"]["cpu_ms"],
            "cascade": {str(clients): medians[f"cascade@{clients}"]["cpu_ms"] for clients in CLIENTS},
            **{name: medians[case]["cpu_ms"] for name, case in rivals.items()},
        },
        "cpu_ratio_to_limit": _ratio(cases, many["cascade"], f"limit@{MANY}", "cpu_ms"),
        "throughput_ratio": {name: _ratio(cases, many["cascade"], case, "per_second") for name, case in rivals.items()},
        "cpu_ratio_of": {name: _ratio(cases, case, many["cascade"], "cpu_ms") for name, case in rivals.items()},
        "fastapi_peer": peer.partition("@")[0],
        "p99_ms_at_70pct": medians["open"]["p99_ms"],
        "p99_over_p50": _over(cases[many["cascade"]]),
        "growth_10M_vs_100k": grown or None,
        "retrieval": {"recall@500": found["recall"][0]["recall@500"]},
        "recall_by_items": {str(r["items"]): r["recall@500"] for r in found["recall"]},
        "cases": medians,
        "workload": {"messages": found["messages"], "compared": found["compared"], "rounds": rounds},
        "machine": machine(),
    }
    return summary | {"targets": targets(summary)}


def targets(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each target with its value, and whether it is met; those that this run did not measure are left out."""
    values = {
        "cpu_ratio_to_limit": summary["cpu_ratio_to_limit"],
        "throughput_to_fastapi": summary["throughput_ratio"]["fastapi"],
        "throughput_to_ensemble": summary["throughput_ratio"]["ensemble"],
        "p99_ms_at_70pct": summary["p99_ms_at_70pct"],
        "p99_over_p50": summary["p99_over_p50"],
        "growth": summary["growth_10M_vs_100k"],
        "recall@500": min(summary["recall_by_items"].values()),
    }
    return {
        name: {"value": values[name], "must": must, "stretch": stretch, "met": (values[name] >= must) == more}
        for name, (must, stretch, more) in TARGETS.items()
        if values[name] is not None
    }


def machine() -> dict[str, Any]:
    """Where this ran."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = "unknown"
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[1],
        **{package: version(package) for package in PACKAGES},
    }


def tables(summary: Mapping[str, Any]) -> Iterable[Table]:
    """The report for the terminal: the targets, then every case."""
    shown = Table("target", "measured", "must be", "stretch", "")
    for name, target in summary["targets"].items():
        sign = "≥" if TARGETS[name][2] else "≤"
        stretch = "" if target["stretch"] is None else f"{sign} {target['stretch']:g}"
        verdict = "[green]met" if target["met"] else "[red]missed"
        shown.add_row(name, f"{target['value']:.3g}", f"{sign} {target['must']:g}", stretch, verdict)
    yield shown
    columns = ("per_second", "cpu_ms", "client_cpu_ms", "p50_ms", "p95_ms", "p99_ms")
    shown = Table("case@clients or batch", *columns)
    for name, numbers in summary["cases"].items():
        label = f"open loop at {LOAD_SHARE:.0%}" if name == "open" else name
        shown.add_row(label, *(f"{numbers[c]:,.3g}" if c in numbers else "" for c in columns))
    yield shown


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(row[key] for row in rows) for key in rows[0]}


def _ratio(cases: Mapping[str, list[dict[str, float]]], a: str, b: str, key: str) -> float:
    return median(x[key] / y[key] for x, y in zip(cases[a], cases[b], strict=True))


def _over(rows: list[dict[str, float]]) -> float:
    return median(row["p99_ms"] / row["p50_ms"] for row in rows)
