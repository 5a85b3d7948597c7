"""`shortlist events import`: the history that a team has, into the log from which live profiles are made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist.cli.consume import Log, same_log
from shortlist.cli.options import Kafka
from shortlist.errors import ConfigError

if TYPE_CHECKING:
    from shortlist.config import DataConfig
    from shortlist.events.importing import Report


def import_events(
    source: Annotated[str, typer.Argument(help="Training configuration (YAML), or a CSV, Parquet or JSON-lines file.")],
    log: Log,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            help="What one kind of rows is (buy=like; test= leaves it out), or all without a type (click); repeat it.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column of a file, as ours=theirs (user_id=customer); repeat it.")
    ] = None,
    max_rejected: Annotated[float | None, typer.Option(help="Share of rows that may be refused.")] = None,
    dead_letters: Annotated[str | None, typer.Option(help="Where refused rows go: a folder, or kafka://…")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing: say what would be.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    kafka: Kafka = None,
) -> None:
    """Append a historical log as events, in order of time. Again, or after an interruption: only what is not there yet.

    Import before people's live events come: an event more than a day older than its user's newest is late.

    Example: shortlist events import configs/mine.yaml build/events --type buy=like --dry-run
    """
    from shortlist.events.importing import choose_types, import_rows, marks_in
    from shortlist.events.rows import read_rows
    from shortlist.events.transport import open_sink, read_settings

    if dead_letters and same_log(log, dead_letters):
        raise ConfigError(f"--dead-letters = {dead_letters}: is the log itself; name another")
    config = _data(source, column or [], max_rejected)
    settings = read_settings(kafka) if kafka else {}
    began = time.monotonic()
    with ExitStack() as stack:
        with _status(f"reading {source}"):
            rows = stack.enter_context(read_rows(config))
        types = choose_types(rows, *_types(type_ or []))
        sink = None if dry_run else stack.enter_context(closing(open_sink(log, settings)))
        dead = stack.enter_context(closing(open_sink(dead_letters, settings))) if dead_letters and not dry_run else None
        with _status(f"reading what {log} has"):
            there = marks_in(log, settings)
        progress = stack.enter_context(_progress(len(rows)))
        report = import_rows(rows, types, there, sink, dead, progress=progress, tell=lambda s: typer.echo(s, err=True))
    seconds = time.monotonic() - began
    typer.echo(json.dumps(_document(report, seconds)) if as_json else _told(report, seconds, rows.source, dry_run))
    if report.refused.total() > config.max_rejected * len(rows):
        raise typer.Exit(1)


def _data(source: str, columns: Sequence[str], max_rejected: float | None) -> DataConfig:
    """The data section of a configuration, or that of a file."""
    from shortlist.cli.data import data_config

    if source.endswith((".yaml", ".yml")):
        return data_config(source, None, columns, max_rejected)
    return data_config("table", Path(source), columns, max_rejected)


def _types(options: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """What is said of single kinds of event, and of all others."""
    pairs = [option.rpartition("=") for option in options]
    others = [ours for _, equals, ours in pairs if not equals]
    if len(others) > 1:
        raise ConfigError(
            f"--type {others[0]} and --type {others[1]}: one for all is allowed; write buy=like for a kind"
        )
    return {theirs: ours for theirs, equals, ours in pairs if equals}, others[0] if others else None


def _status(line: str) -> AbstractContextManager[object]:
    from rich.console import Console
    from rich.markup import escape

    return Console(stderr=True).status(escape(line))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Report], None]]:
    """A bar on standard error, with how fast it goes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, began = bar.add_task("", total=total, rate=""), time.monotonic()

        def show(report: Report) -> None:
            rate = report.done / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=report.done, rate=f"{rate:,.0f} rows/s")

        yield show


def _told(report: Report, seconds: float, source: str, dry_run: bool) -> str:
    first, last = (f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}" for ms in (report.first_ms, report.last_ms))
    lines = [
        f"{report.rows:,} rows of {source}, {first} to {last}; {seconds:.1f} s, {report.done / seconds:,.0f} rows/s",
        f"{report.appended:,} events {'would be ' if dry_run else ''}appended, {report.there:,} were there already",
    ]
    for what, counts in (
        ("refused", report.refused),
        ("left out", report.left_out),
        ("without their value, which the type of event does not have", report.valueless),
    ):
        if counts:
            lines.append(f"{counts.total():,} {what}: " + ", ".join(f"{n} {c:,}" for n, c in counts.most_common()))
    return "\n".join(lines)


def _document(report: Report, seconds: float) -> dict[str, Any]:
    return {**vars(report), "seconds": round(seconds, 3)}
