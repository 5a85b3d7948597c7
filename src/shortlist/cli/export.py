"""`shortlist export`: from a trained run to a Triton model repository that can be deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from shortlist.serving.model_config import Gpus
    from shortlist.serving.repository import GpuOptions

REPORT = "report.json"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run, or of its bundle.")],
    out: Annotated[Path, typer.Option(help="Model repository to write; an earlier one gets a new version.")],
    target: Annotated[str, typer.Option(help="Machine it is for: cpu or gpu.")] = "cpu",
    instances: Annotated[
        int | None, typer.Option(min=1, help="Processes a model; by default one per core, on each GPU two.")
    ] = None,
    stages: Annotated[
        bool, typer.Option(help="Add the stage models and the ensemble over them (a gpu target always has its own).")
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=PRECISION of a plan; repeat it. Default filter=measure (int8 or fp16)."),
    ] = None,
    engines: Annotated[
        Literal["auto", "now", "later"],
        typer.Option(help="When TensorRT plans are built: now, later by `serve`, or now where there is a GPU."),
    ] = "auto",
    gpu_memory: Annotated[
        float | None, typer.Option(min=0, help="GB that may be taken of each GPU; more is refused.")
    ] = None,
    gpus: Annotated[str, typer.Option(help="GPUs that serve, such as 0,1: all instances on each.")] = "0",
    index_gpus: Annotated[
        str | None,
        typer.Option(help="shards or replicas: spread the index over all --gpus, instances on the first alone."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Build every precision for every GPU, and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Build a deployable Triton model repository from a trained run.

    The repository holds a verified copy of the bundle. A bundle it has already is not added again; another one
    becomes the next version, which a running `shortlist serve` loads by itself. For a GPU it also holds TensorRT plans,
    built on the GPU that will run them; --report needs none (but the extra rtx).

    Example: shortlist export runs/demo --target cpu --out build/demo
    """
    from shortlist.serving.model_config import parse_gpus
    from shortlist.serving.repository import build_repository, find_bundle

    bundle = find_bundle(run)
    backend = _report_backend() if report else None  # before anything is written
    placed = parse_gpus(gpus, index_gpus)
    gpu = _gpu_options(precision or [], engines, gpu_memory, placed) if target == "gpu" else None
    version = build_repository(bundle, out, target, instances=instances, stages=stages, gpu=gpu)
    found: dict[str, Any] = {"repository": str(out), "target": target, "version": version.name}
    if not as_json:
        _tell(out, version)
    if gpu:
        found["memory"] = _memory(out, version, gpu_memory, as_json)
    if report:
        found |= _report(bundle, out / REPORT, backend, as_json)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"serve it with: shortlist serve {out}")
    if found.get("failures"):
        raise typer.Exit(1)


def _gpu_options(precision: list[str], engines: str, gigabytes: float | None, gpus: Gpus) -> GpuOptions:
    from shortlist.serving.plans import find_builder, missing_builder, parse_precisions
    from shortlist.serving.repository import GpuOptions

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    missing = missing_builder() if engines == "auto" else ""
    if missing:
        tell(f"no plans are built, as {missing}: `shortlist serve` builds them on the GPU that will run them")
    builder = None if missing or engines == "later" else find_builder()
    memory = None if gigabytes is None else gigabytes * 1e9
    return GpuOptions(parse_precisions(precision), builder, memory, gpus=gpus, tell=tell)


def _tell(out: Path, version: Path) -> None:
    from shortlist.bundle import Bundle

    bundle = Bundle.open(version / "bundle", verify=False)
    size = sum(entry["bytes"] for entry in bundle.files.values()) / 1e6
    typer.echo(f"{out}: model cascade, version {version.name} (bundle {bundle.version}, {size:.1f} MB)")


def _memory(out: Path, version: Path, gigabytes: float | None, quiet: bool) -> dict[str, Any]:
    """The memory plan, shown as a table unless `quiet`."""
    from shortlist.serving.memory import memory_plan, memory_table

    plan = memory_plan(out, version.name)
    if not quiet:
        from rich.console import Console

        Console().print(memory_table(plan, None if gigabytes is None else gigabytes * 1e9))
    return plan.to_json()


def _report_backend() -> Any:
    """What builds the engines of a report. Raises MissingExtraError where nothing does."""
    from shortlist.errors import MissingExtraError
    from shortlist.export.tensorrt import find_backend

    try:
        return find_backend("tensorrt_rtx")  # builds for GPUs that are not here
    except MissingExtraError:
        return find_backend()


def _report(bundle: Path, path: Path, backend: Any, quiet: bool) -> dict[str, Any]:
    """What builds for which GPU in which precision; written to `path`, shown as a table unless `quiet`."""
    from rich.console import Console

    from shortlist.bundle import Bundle
    from shortlist.export.engines import EngineCache
    from shortlist.export.report import engine_report, print_report, unexpected_failures
    from shortlist.export.samples import bundle_subjects
    from shortlist.serving.triton import default_cache

    cache = EngineCache(default_cache() / "engines", backend)
    made = engine_report(bundle_subjects(Bundle.open(bundle)), cache, show_progress=not quiet)
    made["failures"] = unexpected_failures(made)
    path.write_text(json.dumps(made, indent=1), encoding="utf-8")
    if not quiet:
        print_report(made, Console())
        typer.echo(f"{path}: every engine with its layers and their types")
    return made
