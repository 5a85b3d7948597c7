"""`shortlist demo`: the whole way on MovieLens-100k, from an empty folder to slates that follow what people do."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist.errors import ServerError

if TYPE_CHECKING:
    from rich.console import Console

    from shortlist.serving.client import Client, Recommendation

DEEDS: tuple[tuple[str, dict[str, Any]], ...] = (("like", {}), ("dwell", {"value": 90}), ("dislike", {}))
LATEST = 30.0  # seconds after which an event must be in an answer, on any machine


def demo(
    config: Annotated[Path, typer.Option(help="YAML configuration.", exists=True, dir_okay=False)] = Path(
        "configs/demo.yaml"
    ),
    run: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    repository: Annotated[Path, typer.Option(help="Folder of the Triton repository.")] = Path("build/demo"),
    grpc_port: Annotated[int, typer.Option(help="Port of the gRPC service; 0 takes a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of the metrics endpoint; 0 takes a free one.")] = 8002,
    gateway_port: Annotated[int, typer.Option(help="Port of the gateway; 0 takes a free one.")] = 8080,
    once: Annotated[bool, typer.Option("--once", help="Stop after the example requests.")] = False,
) -> None:
    """Train, evaluate, export, serve, ask for a few slates, and do something to change one; then serve until Ctrl-C.

    What an earlier call left and is still valid is used again.

    Example: shortlist demo --once
    """
    from rich.console import Console

    from shortlist.cli.serve import interrupt
    from shortlist.config import Config
    from shortlist.profiles import PROFILES_URL
    from shortlist.profiles.embedded import free_port
    from shortlist.serving.process import Address, free_address
    from shortlist.serving.realtime import Realtime
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
        with ExitStack() as stack:
            live = stack.enter_context(Realtime(run / "realtime", lambda: run / "bundle", console.print))
            environment = {PROFILES_URL: live.store}
            supervisor = Supervisor(repository, address, on_event=console.print, environment=environment)
            stack.enter_context(supervisor)
            _ask(console, address.grpc, run)
            console.rule("5 · do something")
            gateway = live.open_gateway(address.grpc, gateway_port or free_port())
            _do_something(console, address.grpc, gateway, run)
            console.print(f"gRPC     {address.grpc}  (model `cascade`)\nmetrics  {address.metrics}\ngateway  {gateway}")
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
    from shortlist.cli.recommend import item_titles, slate_table, stage_table
    from shortlist.serving.client import Client

    titles, people = item_titles(run), _people(run)
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


def _people(run: Path) -> list[str]:
    """Ids of three known users."""
    from shortlist.bundle import Bundle
    from shortlist.catalog import IdMap

    users = IdMap.load(Bundle.open(run / "bundle", verify=False), "user")
    return [users.id(row).decode() for row in range(0, len(users), max(1, len(users) // 3))][:3]


def _do_something(console: Console, url: str, gateway: str, run: Path) -> None:
    """Let a user like, look at and dislike what is on their slate, and show the next one."""
    from shortlist.cli.recommend import item_titles, slate_table
    from shortlist.serving.client import Client

    titles, user = item_titles(run), _people(run)[0]
    with Client(url) as client:
        before = client.recommend(user, trace=True)
        console.print(slate_table(before, titles, f"user {user}, before"))
        did = dict(zip(before.ids, DEEDS, strict=False))
        for item, (type_, _) in did.items():
            console.print(f"  {type_:8} {titles.get(item, item)}", highlight=False)
        started = time.perf_counter()
        _post(gateway, user, did)
        after = _answer_with(client, user, _version(before) + len(did))
        took = 1e3 * (time.perf_counter() - started)
        console.print(slate_table(after, titles, f"user {user}, {took:.0f} ms after the events were sent"))
        new = [item for item in after.ids if item not in before.ids]
        console.print(f"{len(new)} of {len(after)} items are new: {', '.join(titles.get(item, item) for item in new)}")


def _post(gateway: str, user: str, did: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Send events to the gateway, as a web page would: item -> type and further fields."""
    now_ns = time.time_ns()
    events = [
        {
            "event_id": f"demo-{now_ns}-{item}",
            "user_id": user,
            "item_id": item,
            "type": type_,
            "timestamp_ms": now_ns // 1_000_000,
            **more,
        }
        for item, (type_, more) in did.items()
    ]
    body, kind = json.dumps({"events": events}).encode(), {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{gateway}/v1/events", body, kind), timeout=LATEST):
        pass  # the log has them


def _answer_with(client: Client, user: str, version: int) -> Recommendation:
    """The first answer that reflects so many events. Raises ServerError when none comes."""
    until = time.monotonic() + LATEST
    while time.monotonic() < until:
        answer = client.recommend(user, trace=True)
        if _version(answer) >= version:
            return answer
    raise ServerError(f"no answer reflects the events after {LATEST:g} s: is the consumer running?")


def _version(answer: Recommendation) -> int:
    """How many events of the person an answer reflects."""
    return int(answer.trace["profile"]["version"]) if answer.trace else 0
