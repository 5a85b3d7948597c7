"""`shortlist deploy`: a new bundle into a served repository; the old version answers until the new one does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def deploy(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run, or of its bundle.")],
    repository: Annotated[Path, typer.Argument(help="Model repository made by `shortlist export`.")],
    keep: Annotated[
        int | None, typer.Option(min=2, help="Then remove all but the newest so many versions; by default none.")
    ] = None,
) -> None:
    """Try a bundle out, publish it as the repository's next version, and wait until the servers over it serve it.

    Its checksums and its golden requests must be right, and requests that the served version takes must not be refused.
    A server loads and warms it beside the old version, then switches; one that does not load is refused, and the old
    one goes on.

    Example: shortlist deploy runs/demo build/demo --keep 5
    """
    from shortlist.serving.deploy import deploy as deploy_bundle
    from shortlist.serving.releases import prune
    from shortlist.serving.repository import find_bundle

    deploy_bundle(find_bundle(run), repository, typer.echo)
    removed = prune(repository, keep) if keep else []
    if removed:
        typer.echo(f"removed version {', '.join(map(str, removed))}")
