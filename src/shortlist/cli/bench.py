"""`shortlist bench`: figures that a reader can make again, as ratios of rivals timed in one interleaved run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

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

    from shortlist.errors import MissingExtraError
    from shortlist.kernels.benchmark import run, tables

    if find_spec("pyversity") is None:
        raise MissingExtraError("pyversity", "bench")

    report = run(rounds, table)
    _deliver(report, tables, as_json, out)


@app.command()
def serving(
    bundle: Annotated[Path, typer.Option(help="Folder of a trained run, or of a bundle.")] = Path("runs/demo"),
    items: Annotated[int | None, typer.Option(min=1000, help="Grow the bundle to so many items first.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each runs every case once, in random order.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.2, help="How long a case runs in a round.")] = 2.0,
    growth: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two more bundles, a small and a large one: how cost grows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Time the cascade on Triton against its stages in process, FastAPI, the ensemble and LitServe.

    All run at the same time, so a bundle is in memory several times over where it is not memory-mapped. The machine
    should do nothing else.

    Example: shortlist bench serving --bundle build/million --growth build/100k build/10m --json
    """
    import tempfile
    from importlib.util import find_spec

    from shortlist.errors import MissingExtraError
    from shortlist.serving.benchmark.grow import grow as grow_bundle
    from shortlist.serving.benchmark.report import summarise, tables
    from shortlist.serving.benchmark.run import run
    from shortlist.serving.repository import find_bundle

    for package in ("fastapi", "litserve", "msgspec", "uvicorn", "uvloop"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "peers")
    with tempfile.TemporaryDirectory(prefix="shortlist-bench-") as folder:
        measured = find_bundle(bundle)
        if items:
            measured = Path(folder) / "bundle"
            grow_bundle(find_bundle(bundle), measured, items, users=max(1000, items // 5))
        found = run(measured, rounds, seconds, growth or (), lambda line: typer.echo(line, err=True))
    report = summarise(found, rounds)
    _deliver(report, tables, as_json, out)


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
    from shortlist.evaluation.students import compare_students, table

    report = compare_students(run, rounds=rounds, show_progress=True)
    _deliver(report, lambda found: [table(found)], as_json, out)


@app.command()
def effort(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", exists=True, file_okay=False)],
    requests: Annotated[int, typer.Option(min=1, help="Most validation and test requests each.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the curve into this PNG.")] = None,
) -> None:
    """Measure what fewer cells, candidates and ranked items cost in NDCG, and save in CPU time.

    Example: shortlist bench effort runs/demo --plot effort.png
    """
    from shortlist.evaluation import effort as curve

    report = curve.effort_curve(run, requests=requests, show_progress=True)
    if plot:
        curve.plot(report, plot)
    _deliver(report, lambda found: [curve.table(found)], as_json, out)


@app.command()
def eligibility(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle (or of a run) of many items, as `grow` makes.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each times every predicate once, in random order.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Measure retrieval's recall and CPU time by the share of the items that a predicate leaves.

    Example: shortlist bench eligibility build/million
    """
    from shortlist.serving.benchmark.eligibility import bench_eligibility, table
    from shortlist.serving.repository import find_bundle

    report = bench_eligibility(find_bundle(bundle), rounds)
    _deliver(report, lambda found: [table(found)], as_json, out)


@app.command()
def realtime(
    bundle: Annotated[Path, typer.Option(help="Folder of a trained run, or of a bundle.")] = Path("runs/demo"),
    seconds: Annotated[float, typer.Option(min=1, help="How long events and requests run.")] = 20.0,
    events: Annotated[float, typer.Option(min=1, help="Events a second, beside those of the followed.")] = 500.0,
    requests: Annotated[float, typer.Option(min=1, help="Requests a second, beside those of the followed.")] = 50.0,
    ingest: Annotated[int, typer.Option(min=1000, help="Events of the log that one consumer works through.")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Measure how soon an event is in an answer of a whole service under load, and whether any is lost or counts twice.

    Example: shortlist bench realtime --bundle runs/demo --json
    """
    from shortlist.serving.benchmark.realtime import Load, run, table
    from shortlist.serving.repository import find_bundle

    load = Load(seconds, events, requests, ingest)
    report = run(find_bundle(bundle), load, lambda line: typer.echo(line, err=True))
    _deliver(report, lambda found: [table(found)], as_json, out)


@app.command()
def grow(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained run, or of its bundle.")],
    items: Annotated[int, typer.Option(min=1, help="Items of the new catalogue.")],
    users: Annotated[int, typer.Option(min=1, help="People with a stored history, some of them empty.")],
    out: Annotated[Path, typer.Option(help="Where the bundle goes; one that is there is replaced.")],
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Make a bundle of many items from a small trained one, to measure serving with: its slates mean nothing.

    Example: shortlist bench grow runs/demo --items 1000000 --users 200000 --out build/million
    """
    from shortlist.serving.benchmark.grow import grow as grow_bundle
    from shortlist.serving.repository import find_bundle

    grow_bundle(find_bundle(bundle), out, items, users, seed)
    typer.echo(f"{out}: {items} items, {users} users, for benchmarks only")


def _deliver(
    report: dict[str, Any], tables: Callable[[dict[str, Any]], Iterable[Any]], as_json: bool, out: Path | None
) -> None:
    """Write the report as JSON where asked, and print it: as JSON, or as tables."""
    from rich.console import Console

    content = json.dumps(report, indent=1)
    if out:
        out.write_text(content + "\n", encoding="utf-8")
    if as_json:
        typer.echo(content)
        return
    for shown in tables(report):
        Console().print(shown)
