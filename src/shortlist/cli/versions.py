"""`shortlist versions`: what a model repository holds, and what the servers over it do with each version."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def versions(
    repository: Annotated[Path, typer.Argument(help="Model repository made by `shortlist export`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the versions of a repository: bundle, when it was published, size, and whether it is served.

    Example: shortlist versions build/demo --json
    """
    from shortlist.serving.releases import Release, releases
    from shortlist.serving.tensors import CASCADE
    from shortlist.serving.versions import check_repository

    check_repository(repository, [CASCADE.name])
    held: list[Release] = releases(repository)
    if as_json:
        return typer.echo(json.dumps([asdict(r) | {"published": r.published.isoformat()} for r in held]))
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("version", "bundle", "published (UTC)", "MB", "state")
    for r in held:
        state = escape(f"{r.state}: {r.why}") if r.why else r.state
        table.add_row(str(r.number), r.bundle, f"{r.published:%Y-%m-%d %H:%M:%S}", f"{r.bytes / 1e6:.1f}", state)
    return Console().print(table)
