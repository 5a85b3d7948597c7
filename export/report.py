"""What builds, for which GPU, in which precision, of which layers, and what a precision changes: as JSON and a table.

Engines are built by `shortlist.export.engines` and kept in its cache; the models come from `shortlist.export.samples`.
Layers and their types are the network's, since looking into an engine takes a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import onnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from shortlist.errors import BundleError, ConfigError
from shortlist.export.emulate import top_overlap
from shortlist.export.engines import EngineCache
from shortlist.export.precision import weighted_products
from shortlist.export.qdq import KINDS, asymmetric, count_pairs
from shortlist.export.samples import Subject
from shortlist.export.tensorrt import Backend, device_capability
from shortlist.export.variants import PRECISIONS, is_offered, make_variant

CAPABILITIES = (80, 86, 89, 120)  # that are built for ahead of time
ASYMMETRIC = "int8-asymmetric"  # not offered: built to show that it is refused
Entry = dict[str, Any]


def engine_report(
    subjects: Sequence[Subject],
    cache: EngineCache,
    capabilities: Sequence[int] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    *,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Build every model in each of its `precisions` for every compute capability, and compare them with FP32.

    `engines` has an entry for each, `ok` or with the `reason` why not; `expected_failure` tells what is not offered.
    `qdq_nodes` counts those of all INT8 graphs, and `overlap` is the share of the best candidates that a precision
    has in common with FP32, on a CPU. Capabilities are by default those of the backend. Raises ConfigError for one that
    the backend cannot build for.
    """
    chosen = tuple(capabilities) if capabilities is not None else default_capabilities(cache.backend)
    engines: list[Entry] = []
    overlap: dict[str, float] = {}
    qdq_nodes = 0
    for subject in subjects:
        variants = _variants(subject, [precision for precision in precisions if precision in subject.precisions])
        for precision, variant in track(variants.items(), subject.model, disable=not show_progress):
            engines += [_entry(subject, precision, variant, sm, cache) for sm in chosen]
            if precision not in ("fp32", ASYMMETRIC) and isinstance(variant, bytes):
                overlap |= _overlap(subject, precision, variant)
        qdq_nodes += sum(_pairs(variants.get("int8")))
    builder = {"name": cache.backend.name, "version": cache.backend.version}
    return {"builder": builder, "engines": engines, "qdq_nodes": qdq_nodes, "overlap": overlap}


def default_capabilities(backend: Backend) -> tuple[int, ...]:
    """What `backend` builds for: some generations of GPUs ahead of time, else the GPU at hand."""
    if backend.ahead_of_time:
        return CAPABILITIES
    here = device_capability()
    if here is None:
        raise ConfigError(f"{backend.name} builds for the GPU at hand, and there is none; install the extra rtx")
    return (here,)


def unexpected_failures(report: dict[str, Any]) -> list[str]:
    """Engines that should have been built and were not, or the other way round."""
    return [
        f"{e['model']} {e['precision']} sm {e['sm']}: {e.get('reason', 'was built, although it is not offered')}"
        for e in report["engines"]
        if e["ok"] == e["expected_failure"]
    ]


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table: megabytes of each engine, and the overlap with FP32."""
    capabilities = sorted({entry["sm"] for entry in report["engines"]})
    table = Table(title=f"Engines by {report['builder']['name']} {report['builder']['version']} (MB)")
    for name in ("model", "precision", *(f"sm {sm}" for sm in capabilities), "top 10 as FP32", "Q/DQ", "layers"):
        table.add_column(name, justify="left" if name in ("model", "precision") else "right")
    for model, precision in dict.fromkeys((entry["model"], entry["precision"]) for entry in report["engines"]):
        entries = {e["sm"]: e for e in report["engines"] if (e["model"], e["precision"]) == (model, precision)}
        same = report["overlap"].get(f"{model} {precision} top10")
        some = next(iter(entries.values()))
        table.add_row(
            model,
            precision,
            *(_cell(entries[sm]) for sm in capabilities),
            "" if same is None else f"{same:.4f}",
            str(some["qdq_nodes"] or ""),
            str(max(len(entry.get("layers", ())) for entry in entries.values()) or ""),
        )
    console.print(table)
    for line in unexpected_failures(report):
        console.print(f"[red]{line}[/red]", highlight=False)


def _variants(subject: Subject, precisions: Sequence[str]) -> dict[str, bytes | str]:
    """The graph in each precision, or why it has none; and one that must be refused."""
    found: dict[str, bytes | str] = {}
    for precision in precisions:
        try:
            found[precision] = make_variant(subject.graph, precision, subject.ranges)
        except ValueError as error:
            found[precision] = str(error)
    if isinstance(symmetric := found.get("int8"), bytes):
        found[ASYMMETRIC] = asymmetric(symmetric)
    return found


def _entry(subject: Subject, precision: str, variant: bytes | str, sm: int, cache: EngineCache) -> Entry:
    expected = not _is_offered(subject, precision, sm)
    entry: Entry = {"model": subject.model, "sm": sm, "precision": precision, "expected_failure": expected}
    entry["qdq_nodes"] = sum(_pairs(variant))
    if isinstance(variant, str):
        return entry | {"ok": False, "reason": variant}
    try:
        engine = cache.engine(subject.model, precision, variant, subject.profiles, sm)
    except BundleError as error:
        return entry | {"ok": False, "reason": str(error)}
    return entry | {
        "ok": True,
        "bytes": engine.bytes,
        "seconds": round(engine.seconds, 3),
        "profiles": len(engine.recipe.profiles),
        "file": engine.path.name,
        "layers": [
            {**asdict(layer), "inputs": [*layer.inputs], "outputs": [*layer.outputs]} for layer in engine.layers
        ],
    }


def _is_offered(subject: Subject, precision: str, sm: int) -> bool:
    if precision in KINDS and not weighted_products(onnx.load_from_string(subject.graph)):
        return False
    return precision != ASYMMETRIC and is_offered(precision, sm)


def _overlap(subject: Subject, precision: str, variant: bytes) -> dict[str, float]:
    found = top_overlap(subject.graph, variant, subject.inputs, subject.real, subject.tops, subject.items)
    return {f"{subject.model} {precision} {top}": value for top, value in found.items()}


def _pairs(variant: bytes | str | None) -> Iterator[int]:
    if isinstance(variant, bytes):
        yield count_pairs(onnx.load_from_string(variant))


def _cell(entry: Entry) -> str:
    if entry["ok"]:
        return f"{entry['bytes'] / 1e6:.2f}"
    return "not offered" if entry["expected_failure"] else "[red]failed[/red]"
