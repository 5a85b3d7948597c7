"""`shortlist reproduce`: the figures of README, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    config: Annotated[Path, typer.Argument(help="YAML configuration.", exists=True, dir_okay=False)] = Path(
        "configs/ml-100k.yaml"
    ),
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.", min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of results.md.")] = Path("runs/reproduce"),
) -> None:
    """Train and evaluate every seed under leave-one-out and rolling, with all baselines, and print the tables.

    Example: shortlist reproduce configs/ml-100k.yaml --seeds 3
    """
    from shortlist.evaluation.reproduce import reproduce as run_all

    table = run_all(config, range(seeds), ("leave-one-out", "rolling"), out)
    typer.echo(table.read_text(encoding="utf-8"))
