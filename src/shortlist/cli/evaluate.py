"""`shortlist evaluate`: measure a trained run and the baselines, and write the report beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shortlist.config import Protocol


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", exists=True, file_okay=False)],
    protocol: Annotated[Protocol, typer.Option(help="How examples are held out.")] = "leave-one-out",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    baselines: Annotated[bool, typer.Option(help="Also fit and measure the baselines.")] = True,
    sample: Annotated[
        int | None, typer.Option(help="Held-out events to predict at most; all by default.", min=1)
    ] = None,
    online: Annotated[
        bool, typer.Option(help="Only tell whether user vectors that events move rank better (rolling protocol).")
    ] = False,
) -> None:
    """Measure the cascade, its stages and the baselines on held-out events.

    A run that was trained under another protocol is first trained under this one, in RUN/protocols, for its own
    training has seen the events to predict. The report is written to RUN/evaluation.

    Example: shortlist evaluate runs/demo --protocol rolling --no-baselines
    """
    if online:
        _evaluate_online(run, as_json)
        return
    from shortlist.evaluation.experiment import evaluate_run

    evaluation = evaluate_run(run, protocol, baselines=baselines, sample=sample, show_progress=True).evaluation
    paths = evaluation.write(run / "evaluation")
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), allow_nan=False))
    else:
        from shortlist.evaluation.console import print_evaluation

        print_evaluation(evaluation, paths)


def _evaluate_online(run: Path, as_json: bool) -> None:
    from shortlist.evaluation.online import online_update, table

    report = online_update(run, show_progress=True)
    path = run / "evaluation" / "online.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report, allow_nan=False))
    else:
        from rich.console import Console

        Console().print(table(report))
        typer.echo(f"all recipes: {path}")
