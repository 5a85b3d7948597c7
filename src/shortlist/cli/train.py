"""`shortlist train`: from an interaction log to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration; see configs/.", exists=True, dir_okay=False)],
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/default"),
    seed: Annotated[int | None, typer.Option(help="Seed instead of the configuration's.")] = None,
) -> None:
    """Train the four stages and write the bundle. Run again to continue an interrupted training.

    Example: shortlist train configs/demo.yaml --run runs/demo
    """
    from shortlist.config import Config
    from shortlist.training import run as runs

    settings = Config.read(config)
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    runs.train(settings, run)
