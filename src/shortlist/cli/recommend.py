"""`shortlist recommend`: one person's slate as a readable table, from a run in process or from a server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from shortlist.serving.client import Recommendation
    from shortlist.serving.tls import Tls
    from shortlist.types import Request

DEMO = Path("runs/demo")
STAGES = ("retrieve", "filter", "rank", "popularity")


def recommend(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a trained run (runs/demo); with --url, where titles come from.")
    ] = None,
    user: Annotated[str, typer.Option(help="User id; none is an anonymous person.")] = "",
    k: Annotated[int | None, typer.Option(help="Slate length, 1 to 50.")] = None,
    history: Annotated[list[str] | None, typer.Option(help="Item id seen, oldest first; repeat it.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Item id never to return; repeat it.")] = None,
    diversity: Annotated[float | None, typer.Option(help="0 (relevance alone) to 1 (novelty alone).")] = None,
    context: Annotated[str | None, typer.Option(help="JSON object of context fields.")] = None,
    eligible: Annotated[str | None, typer.Option(help="JSON object: what item attributes must be.")] = None,
    url: Annotated[str | None, typer.Option(help="host:port of a server to ask, instead of the run.")] = None,
    device: Annotated[
        str | None, typer.Option(help="What the run is asked on: cpu (the default), gpu or auto.")
    ] = None,
    engines: Annotated[Path | None, typer.Option(help="Folder of TensorRT plans (cascade/1/engines).")] = None,
    tls: Annotated[
        bool, typer.Option(help="The server speaks TLS; its authority is one that the system trusts.")
    ] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of the authority that signed the server's.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Our own certificate, for a server that asks (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    tls_name: Annotated[
        str | None, typer.Option(help="Name in the server's certificate, if not that of --url.")
    ] = None,
    trace: Annotated[bool, typer.Option(help="Show each item's rank at every stage, and the times.")] = False,
) -> None:
    """Recommend items for one person and show them as a table.

    Example: shortlist recommend runs/demo --user 42 --k 10 --trace
    """
    from rich.console import Console

    _check_where(url, device, engines)
    asked = {"k": k, "diversity": diversity, "trace": trace}
    asked |= {"context": _parsed("context", context), "eligible": _parsed("eligible", eligible)}
    people = {"user_id": user, "history": history or (), "exclude": exclude or ()}
    request = {**people, **asked}
    secure = _tls(url, tls, tls_ca, tls_cert, tls_key, tls_name)
    answer = _ask_server(url, secure, **request) if url else _ask_run(run or DEMO, device or "cpu", engines, **request)
    titles = item_titles(run or DEMO) if run or not url else {}
    console = Console()
    console.print(slate_table(answer, titles, f"user {user or '(anonymous)'}: {answer.status}"))
    if answer.trace:
        console.print(stage_table(answer.trace))


def slate_table(answer: Recommendation, titles: Mapping[str, str], caption: str) -> Table:
    """The slate, best first; with a trace, also each item's rank at every stage and why it survived."""
    from rich.markup import escape
    from rich.table import Table

    ranks = {item["id"]: item["ranks"] for item in answer.trace["items"]} if answer.trace else {}
    stages = [s for s in STAGES if any(s in of for of in ranks.values())]
    table = Table(title=escape(caption), title_justify="left")
    for name in ("#", "item", *(("title",) if titles else ()), "score", *stages, *(("why",) if stages else ())):
        table.add_column(name, justify="left" if name in ("item", "title", "why") else "right")
    for slot, item in enumerate(answer.items, start=1):
        of = ranks.get(item.id, {})
        title = (titles.get(item.id, ""),) if titles else ()
        why = (survival(of, slot),) if stages else ()
        table.add_row(
            str(slot),
            escape(item.id),
            *map(escape, title),
            f"{item.score:.4f}",
            *(str(of.get(s, "")) for s in stages),
            *why,
        )
    return table


def stage_table(trace: Mapping[str, Any]) -> Table:
    """How long each stage took, and how many items went in and out."""
    from rich.table import Table

    table = Table(title=f"bundle {trace['version']}", title_justify="left")
    for name in ("stage", "ms", "in", "out"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in trace["stages"]:
        table.add_row(stage["stage"], f"{stage['ms']:.2f}", str(stage["in"]), str(stage["out"]))
    return table


def survival(ranks: Mapping[str, int], slot: int) -> str:
    """In words: which stage brought the item up most, and whether diversity moved it."""
    if "popularity" in ranks:
        return "popular in this context"
    path = [(name, ranks[name]) for name in ("retrieve", "filter", "rank") if name in ranks]
    if not path:
        return ""
    gains = {name: before - after for (_, before), (name, after) in pairwise(path)}
    best = max(gains, key=lambda name: gains[name], default=None)
    reasons = [f"{best} lifted it {gains[best]} places" if best and gains[best] > 0 else f"{path[0][0]} had it high"]
    last = path[-1][1]
    if last != slot:
        reasons.append(f"diversity moved it {'up' if slot < last else 'down'} {abs(last - slot)}")
    return ", ".join(reasons)


def _check_where(url: str | None, device: str | None, engines: Path | None) -> None:
    """Raise ConfigError for options that would have no effect."""
    given = f"--device = {device!r}" if device is not None else f"--engines = {str(engines)!r}"
    if url is not None and (device is not None or engines is not None):
        raise ConfigError(f"{given}: not allowed with --url, as a server has its own device; leave it out")
    if engines is not None and device in (None, "cpu"):
        raise ConfigError(f"--engines = {str(engines)!r}: allowed with --device gpu or auto alone; leave it out")


def _tls(url: str | None, wanted: bool, *files: Any) -> Tls | None:
    """What the options of TLS say. Raises ConfigError where they would have no effect."""
    from shortlist.serving.tls import Tls

    if not wanted and not any(files):
        return None
    if url is None:
        raise ConfigError("--tls: allowed with --url alone, as a run is asked in process; leave it out")
    return Tls(*files)


def _ask_server(url: str, tls: Tls | None, **request: Any) -> Recommendation:
    from shortlist.serving.client import Client

    with Client(url, tls=tls) as client:
        return client.recommend(**request)


def _ask_run(run: Path, device: Any, engines: Path | None, **request: Any) -> Recommendation:
    from shortlist.cascade import Cascade
    from shortlist.devices import choose_device
    from shortlist.serving.client import Item, Recommendation
    from shortlist.serving.repository import find_bundle
    from shortlist.types import Slate

    cascade = Cascade.load(find_bundle(run), device=choose_device(device, engines))
    valid = _request(**request)
    cascade.warm_up()  # compiles, so that the times shown are those of a server
    answer = cascade.recommend([valid])[0]
    if not isinstance(answer, Slate):
        raise answer
    shown = zip(answer.item_ids, answer.scores.tolist(), answer.propensities.tolist(), strict=True)
    return Recommendation(tuple(Item(i.decode(), s, p) for i, s, p in shown), answer.status, answer.trace)


def _request(user_id: str, history: Sequence[str], exclude: Sequence[str], **options: Any) -> Request:
    """Checked exactly as the server would."""
    import numpy as np

    from shortlist.serving.parse import parse_request

    lists = ((user_id,), history, exclude)  # a terminal's bytes that are no UTF-8 come back as they were
    person, seen, banned = (np.array([[os.fsencode(i) for i in ids]], np.object_) for ids in lists)
    given = options | {name: json.dumps(options[name]) for name in ("context", "eligible") if options[name] is not None}
    return parse_request(
        person, seen, banned, json.dumps({name: value for name, value in given.items() if value is not None})
    )


def _parsed(option: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise RequestError(f"--{option} = {text!r}: it is not valid JSON ({error})") from error


def item_titles(run: Path) -> dict[str, str]:
    """Item id -> title, when the run's items have one."""
    from shortlist.bundle import Bundle
    from shortlist.serving.repository import find_bundle

    bundle = Bundle.open(find_bundle(run), verify=False)
    column = bundle.metadata.get("title")
    if not column or not bundle.has("items.parquet"):
        return {}
    import polars as pl

    items = pl.read_parquet(bundle.file("items.parquet"), columns=["item_id", column])
    return {str(item): str(title) for item, title in items.iter_rows() if title is not None}
