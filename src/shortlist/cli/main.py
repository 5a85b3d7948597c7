"""The `shortlist` command: one verb a file. Heavy imports stay inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from shortlist.cli import (
    bench,
    data,
    demo,
    deploy,
    doctor,
    evaluate,
    events,
    export,
    gateway,
    items,
    precompute,
    recommend,
    reproduce,
    rollback,
    serve,
    train,
    versions,
)
from shortlist.errors import ShortlistError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A ranking server for hyper-personalised recommendation: train, evaluate, export, serve.",
)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(events.app, name="events")
app.add_typer(items.app, name="items")
for command in (
    train.train,
    evaluate.evaluate,
    export.export,
    serve.serve,
    gateway.gateway,
    deploy.deploy,
    rollback.rollback,
    versions.versions,
    precompute.precompute,
    recommend.recommend,
    doctor.doctor,
    demo.demo,
    reproduce.reproduce,
):
    app.command()(command)


def main() -> None:
    """Entry point: our own errors and those of the file system are a line each, not a stack."""
    try:
        app()
    except ShortlistError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print("[red]error:[/red]", escape(message), highlight=False)
    sys.exit(1)


if __name__ == "__main__":
    main()
