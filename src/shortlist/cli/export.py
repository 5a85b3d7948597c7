"""`shortlist export`: from a trained run to a Triton model repository that can be deployed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shortlist.errors import ConfigError

if TYPE_CHECKING:
    from shortlist.serving.repository import GpuOptions

REPORT = "report.json"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run, or of its bundle.")],
    out: Annotated[Path, typer.Option(help="Model repository to write; an earlier one gets a new version.")],
    target: Annotated[str, typer.Option(help="Machine it is for: cpu or gpu.")] = "cpu",
    instances: Annotated[
        int | None, typer.Option(min=1, help="Processes a model; in a new repository one per core, on each GPU two.")
    ] = None,
    stages: Annotated[
        bool, typer.Option(help="Add the stage models and the ensemble over them (a gpu target always has its own).")
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=PRECISION of a plan; repeat it. Default filter=measure (int8 or fp16)."),
    ] = None,
    engines: Annotated[
        Literal["auto", "now", "later"] | None,
        typer.Option(help="When TensorRT plans are built: now, later by `serve`, or auto: now where there is a GPU."),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0, help="GB that may be taken of each GPU; more is refused.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs that serve, such as 0,1: all instances on each. Default 0.")
    ] = None,
    index_gpus: Annotated[
        str | None,
        typer.Option(help="shards or replicas: spread the index over all --gpus, instances on the first alone."),
    ] = None,
    gpu_index: Annotated[
        str | None, typer.Option(help="auto (by the catalogue's size), flat, ivf_sq8, ivf_pq or cagra.")
    ] = None,
    gpu_temp_memory: Annotated[
        int | None, typer.Option(min=1, help="MiB of each GPU that FAISS may take to search. Default 256.")
    ] = None,
    eligible: Annotated[
        str | None, typer.Option(help="JSON object: what item attributes must be in every answer; {} lifts it.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Build every precision for every GPU, and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Build a deployable Triton model repository from a trained run.

    The repository holds a verified copy of the bundle. A bundle it has already is not added again; another one, or
    another --precision, becomes the next version, which a running `shortlist serve` loads by itself. Options that are
    left out stay as the repository has them. For a GPU it also holds TensorRT plans, built on the GPU that will run
    them; --report needs none (but the extra rtx).

    Example: shortlist export runs/demo --target cpu --out build/demo
    """
    from shortlist.serving.plans import missing_builder
    from shortlist.serving.repository import build_repository, find_bundle
    from shortlist.serving.standing import parse_standing

    for_gpu = {
        "precision": precision,
        "engines": engines,
        "gpu-memory": gpu_memory,
        "gpus": gpus,
        "index-gpus": index_gpus,
        "gpu-index": gpu_index,
        "gpu-temp-memory": gpu_temp_memory,
    }
    if target == "cpu":
        _refuse(for_gpu)
    bundle = find_bundle(run)
    backend = _report_backend() if report else None  # before anything is written
    gpu = _gpu_options(out, for_gpu) if target == "gpu" else None
    standing = parse_standing(eligible)
    version = build_repository(bundle, out, target, instances=instances, stages=stages, gpu=gpu, eligible=standing)
    if gpu and not gpu.builder:
        why = "as asked" if engines == "later" else f"as {missing_builder()}"
        gpu.tell(f"no plans are built, {why}: `shortlist serve` builds them on the GPU that will run them")
    found: dict[str, Any] = {"repository": str(out), "target": target, "version": version.name}
    if not as_json:
        _tell(out, version)
    if gpu:
        found["memory"] = _memory(out, version, as_json)
    if report:
        found |= _report(bundle, out / REPORT, backend, as_json)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"serve it with: shortlist serve {out}")
    if found.get("failures"):
        raise typer.Exit(1)


def _refuse(options: dict[str, Any]) -> None:
    """Raise ConfigError for options that a repository for the CPU has no use for."""
    given = [f"--{name} = {value!r}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: allowed with --target gpu alone; leave it out, or choose that target")


def _gpu_options(out: Path, given: dict[str, Any]) -> GpuOptions:
    from shortlist.serving.model_config import parse_gpus
    from shortlist.serving.plans import find_builder, held_precisions, missing_builder, parse_precisions
    from shortlist.serving.repository import GpuOptions

    numbers, spread, gigabytes, when = (given[name] for name in ("gpus", "index-gpus", "gpu-memory", "engines"))
    if gigabytes is not None and not 0 < gigabytes < math.inf:
        raise ConfigError(f"--gpu-memory = {gigabytes}: a number of GB above 0 is allowed")
    precisions = parse_precisions(given["precision"] or [], held_precisions(out))
    gpus = None if numbers is None and spread is None else parse_gpus("0" if numbers is None else numbers, spread)
    later = when == "later" or (when != "now" and missing_builder())
    return GpuOptions(
        precisions,
        None if later else find_builder(),
        gpus,
        None if gigabytes is None else gigabytes * 1e9,
        given["gpu-index"],
        given["gpu-temp-memory"],
        lambda line: typer.echo(line, err=True),
    )


def _tell(out: Path, version: Path) -> None:
    from shortlist.bundle import Bundle

    bundle = Bundle.open(version / "bundle", verify=False)
    size = sum(entry["bytes"] for entry in bundle.files.values()) / 1e6
    typer.echo(f"{out}: model cascade, version {version.name} (bundle {bundle.version}, {size:.1f} MB)")


def _memory(out: Path, version: Path, quiet: bool) -> dict[str, Any]:
    """The memory plan, shown as a table unless `quiet`."""
    from shortlist.serving.memory import memory_plan, memory_table

    plan = memory_plan(out, version.name)
    if not quiet:
        from rich.console import Console

        Console().print(memory_table(plan))
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
