"""`shortlist bench`: figures that a reader can make again, as ratios of rivals timed in one interleaved run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed against rivals, interleaved in one run, by medians.")


@app.callback()
def bench() -> None:
    """Measure speed against rivals, interleaved in one run, by medians."""


@app.command()
def kernels(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each runs every rival once, in random order.")] = 40,
    table: Annotated[int, typer.Option(min=1000, help="Items that features are gathered from.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Time the CPU kernels on one thread against NumPy, torch and pyversity.

    Example: shortlist bench kernels --json
    """
    from importlib.util import find_spec

    from rich.console import Console

    from shortlist.errors import MissingExtraError
    from shortlist.kernels.benchmark import run, tables

    if find_spec("pyversity") is None:
        raise MissingExtraError("pyversity", "bench")

    report = run(rounds, table)
    content = json.dumps(report, indent=1)
    if out:
        out.write_text(content + "\n", encoding="utf-8")
    if as_json:
        typer.echo(content)
        return
    for shown in tables(report):
        Console().print(shown)


@app.command()
def students(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", exists=True, file_okay=False)],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each times every filter once, in random order.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Compare the run's filter with pruned, INT8, FP8 and linear ones: size, CPU time, retention, NDCG.

    Several students are distilled for that, on the run's own requests, which takes a minute or more.

    Example: shortlist bench students runs/demo
    """
    from rich.console import Console

    from shortlist.evaluation.students import compare_students, table

    report = compare_students(run, rounds=rounds, show_progress=True)
    content = json.dumps(report, indent=1)
    if out:
        out.write_text(content + "\n", encoding="utf-8")
    if as_json:
        typer.echo(content)
    else:
        Console().print(table(report))
