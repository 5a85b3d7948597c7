"""`shortlist rollback`: an earlier version once more, under the next number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rollback(
    repository: Annotated[Path, typer.Argument(help="Model repository made by `shortlist export`.")],
    version: Annotated[
        int | None, typer.Argument(min=1, help="Number; by default the newest with another bundle than is served.")
    ] = None,
) -> None:
    """Publish an earlier version again as the next one, and wait until the servers over the repository serve it.

    Nothing is copied: the bundle's files are hard links.

    Example: shortlist rollback build/demo
    """
    from shortlist.serving.deploy import roll_back

    roll_back(repository, version, typer.echo)
