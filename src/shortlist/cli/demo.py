"""`shortlist demo`: the whole way on MovieLens-100k, from an empty folder to a served slate."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    config: Annotated[Path, typer.Option(help="YAML configuration.", exists=True, dir_okay=False)] = Path(
        "configs/demo.yaml"
    ),
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    repository: Annotated[Path, typer.Option(help="Folder of the Triton repository.")] = Path("build/demo"),
    grpc_port: Annotated[int, typer.Option(help="Port of the gRPC service; 0 takes a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of the metrics endpoint; 0 takes a free one.")] = 8002,
    once: Annotated[bool, typer.Option("--once", help="Stop after the example requests.")] = False,
) -> None:
    """Train, evaluate, export, serve and ask for a few slates; then serve until Ctrl-C.

    What an earlier call left and is still valid is used again.

    Example: shortlist demo --once
    """
    from rich.console import Console

    from shortlist.cli.serve import interrupt
    from shortlist.config import Config
    from shortlist.serving.process import Address, free_address
    from shortlist.serving.repository import build_repository
    from shortlist.serving.supervisor import Supervisor
    from shortlist.training.run import train

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.rule("1 · train")
    train(Config.read(config), run)
    console.rule("2 · evaluate")
    _evaluate(run)
    console.rule("3 · export")
    version = build_repository(run / "bundle", repository)
    console.print(f"Triton model repository: {repository} (cascade, version {version.name})")
    console.rule("4 · serve")
    spare = free_address()
    address = Address(grpc_port=grpc_port or spare.grpc_port, metrics_port=metrics_port or spare.metrics_port)
    try:
        with Supervisor(repository, address, on_event=console.print) as supervisor:
            _ask(console, address.grpc, run)
            console.print(f"gRPC     {address.grpc}  (model `cascade`)\nmetrics  {address.metrics}")
            if not once:
                for number in (signal.SIGINT, signal.SIGTERM):  # both anew: a library may have taken Ctrl-C for itself
                    signal.signal(number, interrupt)
                console.print("Serving until Ctrl-C.")
                supervisor.wait()
    except KeyboardInterrupt:
        console.print("stopped")


def _evaluate(run: Path) -> None:
    """Print the evaluation of the run's own protocol; measured once per trained bundle."""
    from shortlist.bundle import Bundle
    from shortlist.evaluation.console import print_evaluation
    from shortlist.evaluation.experiment import evaluate_run
    from shortlist.training.run import load_config

    protocol, version = load_config(run).split.protocol, Bundle.open(run / "bundle").version
    stamp = run / "evaluation" / "measured.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == [protocol, version]:
        typer.echo(f"{run / 'evaluation'}: measured already, nothing has changed")
        return
    evaluation = evaluate_run(run, protocol, baselines=False, show_progress=True).evaluation
    print_evaluation(evaluation, evaluation.write(run / "evaluation"))
    stamp.write_text(json.dumps([protocol, version]), encoding="utf-8")


def _ask(console: Console, url: str, run: Path) -> None:
    """Ask for three known users and a newcomer, and show what came back."""
    from shortlist.bundle import Bundle
    from shortlist.catalog import IdMap
    from shortlist.cli.recommend import item_titles, slate_table, stage_table
    from shortlist.serving.client import Client

    titles, users = item_titles(run), IdMap.load(Bundle.open(run / "bundle", verify=False), "user")
    people = [users.id(row).decode() for row in range(0, len(users), max(1, len(users) // 3))][:3]
    with Client(url) as client:
        client.recommend(people[0])  # the first request on a new connection also sets it up
        for user in people:
            started = time.perf_counter()
            answer = client.recommend(user, trace=True)
            took = 1e3 * (time.perf_counter() - started)
            console.print(slate_table(answer, titles, f"user {user} ({answer.status}, {took:.1f} ms)"))
            if answer.trace:
                console.print(stage_table(answer.trace))
        newcomer = client.recommend("somebody new", k=5, trace=True)
        console.print(slate_table(newcomer, titles, f"a user nobody knows ({newcomer.status})"))
