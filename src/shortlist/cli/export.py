"""`shortlist export`: from a trained run to a Triton model repository that can be deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run, or of its bundle.")],
    out: Annotated[Path, typer.Option(help="Model repository to write; an earlier one gets a new version.")],
    target: Annotated[str, typer.Option(help="Machine it is for: cpu (gpu is not available yet).")] = "cpu",
    instances: Annotated[int | None, typer.Option(min=1, help="Processes a model; by default one per core.")] = None,
    stages: Annotated[bool, typer.Option(help="Add the stage models and the ensemble over them.")] = False,
) -> None:
    """Build a deployable Triton model repository from a trained run.

    The repository holds a verified copy of the bundle. A bundle it has already is not added again; another one
    becomes the next version, which a running `shortlist serve` loads by itself.

    Example: shortlist export runs/demo --target cpu --out build/demo
    """
    from shortlist.bundle import Bundle
    from shortlist.serving.process import usable_cores
    from shortlist.serving.repository import build_repository, find_bundle

    version = build_repository(find_bundle(run), out, target, instances=instances or usable_cores(), stages=stages)
    bundle = Bundle.open(version / "bundle", verify=False)
    size = sum(entry["bytes"] for entry in bundle.files.values()) / 1e6
    typer.echo(f"{out}: model cascade, version {version.name} (bundle {bundle.version}, {size:.1f} MB)")
    typer.echo(f"serve it with: shortlist serve {out}")
