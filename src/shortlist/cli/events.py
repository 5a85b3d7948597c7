"""`shortlist events`: check events, judge a stream of them, watch it.

Bringing in a historical log is for `cli.importing`, turning the stream into profiles for `cli.consume`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist.cli.consume import consume, export, replay
from shortlist.cli.importing import import_events
from shortlist.cli.options import Kafka

if TYPE_CHECKING:
    from rich.table import Table

    from shortlist.events.quality import Quality
    from shortlist.events.transport import Record, Source

app = typer.Typer(no_args_is_help=True, help="Check events, watch their stream, turn it into profiles.")
SHOWN = 20  # refused lines
_LONGEST_S = 1e9


@app.callback()
def events() -> None:
    """Check events, watch their stream, turn it into profiles."""


@app.command()
def validate(
    file: Annotated[str, typer.Argument(help="Events, a JSON object a line; - is the standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check events against the schema; what is refused is shown with line, field and reason, and fails the command.

    Example: shortlist events validate events.jsonl
    """
    from shortlist.events.schema import EventError, parse

    lines, refused = 0, []
    for record in _lines(file):
        lines += 1
        try:
            parse(record.value)
        except EventError as error:
            refused.append({"line": record.offset + 1, "field": error.field, "reason": str(error)})
    if as_json:
        typer.echo(json.dumps({"events": lines, "refused": refused}))
    else:
        _show_refused(lines, refused)
    if refused:
        raise typer.Exit(1)


@app.command()
def quality(
    where: Annotated[str, typer.Argument(help="A file of JSON lines, -, a log's folder, or kafka://host:port/topic.")],
    late_after: Annotated[float, typer.Option(min=0, help="Seconds that an event may take to arrive.")] = 60,
    impute: Annotated[
        str | None, typer.Option(help="Fill in missing values by mean, median, user_mean or knn, into --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File of JSON lines for the accepted, filled in events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    kafka: Kafka = None,
) -> None:
    """Report the shares of missing, late, repeated, refused and out of range events; fill in missing values.

    Example: shortlist events quality build/events --impute knn --out filled.jsonl
    """
    from typing import get_args

    from rich.console import Console

    from shortlist.errors import ConfigError
    from shortlist.events.quality import assess
    from shortlist.events.schema import Imputation

    if impute is not None and impute not in get_args(Imputation):
        raise ConfigError(f"--impute = {impute!r}: one of {', '.join(get_args(Imputation))} is allowed")
    if (impute is None) != (out is None):
        raise ConfigError("--impute and --out belong together: name a method and a new file")
    if impute is not None and where == "-":
        raise ConfigError("--impute reads twice: a file, a folder or a topic is allowed, - is not")
    if late_after > _LONGEST_S:
        raise ConfigError(f"--late-after = {late_after:g}: at most {_LONGEST_S:g} is allowed")
    report = assess(_records(where, kafka), round(late_after * 1000))
    if as_json:
        typer.echo(json.dumps(report.to_document(), indent=2))
    else:
        Console().print(_quality_table(report))
    if impute is not None and out is not None:
        typer.echo(f"{out}: {_write_imputed(where, kafka, impute, out)} values filled in by {impute}", err=True)


@app.command()
def tail(
    where: Annotated[str, typer.Argument(help="A log's folder, or kafka://host:port/topic.")],
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Show so many of the newest events.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come, until Ctrl-C.")] = False,
    user: Annotated[str | None, typer.Option(help="Only this person's events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    kafka: Kafka = None,
) -> None:
    """Show the newest events of a log, and those that come; or the dead letters of theirs.

    Example: shortlist events tail build/events --follow
    """
    from shortlist.events.transport import drain

    with _source(where, kafka) as source, contextlib.suppress(KeyboardInterrupt):
        newest = sorted(drain(source, last), key=lambda record: record.appended_ms)
        for record in newest[-last:] if last else []:
            _show(record, user, as_json)
        while follow:
            for record in source.poll(1000, timeout_s=0.5):
                _show(record, user, as_json)


app.command("import")(import_events)
app.command()(consume)
app.command()(replay)
app.command()(export)


@contextlib.contextmanager
def _source(where: str, kafka: Path | None) -> Iterator[Source]:
    """Every partition of a log, outside of any group."""
    from shortlist.events.transport import open_source, read_settings

    source = open_source(where, settings=read_settings(kafka) if kafka else None)
    try:
        yield source
    finally:
        source.close()


def _records(where: str, kafka: Path | None) -> Iterator[Record]:
    """All that a log, or a file of lines, holds now."""
    from shortlist.events.transport import KAFKA, drain

    if where.startswith(KAFKA) or Path(where).is_dir():
        with _source(where, kafka) as source:
            yield from drain(source)
    else:
        yield from _lines(where)


def _lines(file: str) -> Iterator[Record]:
    """The lines of a file that are not empty; the offset is the line's number less one."""
    from shortlist.events.transport import Record

    with contextlib.nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                yield Record(0, number, line.rstrip(b"\r\n"), 0)


def _write_imputed(where: str, kafka: Path | None, method: Any, out: Path) -> int:
    """Write the accepted events with values filled in; how many values that are. All events are held in memory."""
    from shortlist.events.quality import impute
    from shortlist.events.schema import Event, EventError, encode, parse

    accepted: list[Event] = []
    for record in _records(where, kafka):
        with contextlib.suppress(EventError):  # the report has counted them
            accepted.append(parse(record.value))
    filled = impute(accepted, method)
    with out.open("xb") as file:
        file.writelines(encode(event) + b"\n" for event in filled)
    return sum(new is not old for new, old in zip(filled, accepted, strict=True))


def _show(record: Record, user: str | None, as_json: bool) -> None:
    from shortlist.events.schema import EventError, parse

    place = {"partition": record.partition, "offset": record.offset, "appended_ms": record.appended_ms}
    try:
        event = parse(record.value)
    except EventError as error:
        letter = _letter(record.value)
        if user is None and as_json:
            typer.echo(json.dumps({**place, **({"letter": letter} if letter else {"refused": str(error)})}))
        elif user is None:
            typer.echo(f"{_place(record)} {_plain(_told(letter) if letter else error)}")
        return
    if user is not None and event.user_id != user:
        return
    if as_json:
        typer.echo(json.dumps({**place, "event": json.loads(record.value)}))
        return
    value = "" if event.value is None else f" {event.value:g}"
    typer.echo(_plain(f"{_place(record)} {event.user_id} {event.type}{value} {event.item_id}"))


def _letter(value: bytes) -> dict[str, Any] | None:
    """A record of a log of dead letters."""
    import msgspec

    from shortlist.events.dead_letters import DeadLetter

    try:
        letter: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(value, type=DeadLetter))
    except msgspec.MsgspecError:
        return None
    return letter


def _told(letter: dict[str, Any]) -> str:
    raw = letter.get("raw") or letter.get("raw_base64", "")
    return f"{letter['topic']} {letter['partition']}:{letter['offset']} {letter['reason']} | {raw}"


def _place(record: Record) -> str:
    moment = datetime.fromtimestamp(record.appended_ms / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{record.appended_ms % 1000:03d} {record.partition}:{record.offset}"


def _plain(text: object) -> str:
    """Without what would move a terminal's cursor: ids come from strangers."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _show_refused(lines: int, refused: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if refused:
        table = Table("line", "field", "reason", box=None)
        for found in refused[:SHOWN]:
            table.add_row(str(found["line"]), escape(_plain(found["field"])), escape(_plain(found["reason"])))
        Console(soft_wrap=True).print(table)
    more = f", {len(refused) - SHOWN} of them not shown" if len(refused) > SHOWN else ""
    typer.echo(f"{lines:,} events, {len(refused):,} refused{more}")


def _quality_table(report: Quality) -> Table:
    from rich.table import Table

    document = report.to_document()
    table = Table("", "share", "", box=None, title=f"{report.events:,} events of {report.records:,} records")
    for name, note in (
        ("refused", _counts(document["refused"]["by_field"])),
        ("out_of_range", _counts(document["out_of_range"]["by_field"])),
        ("duplicate", "of the same event id"),
        ("late", f"more than {report.late_after_ms / 1000:g} s after it happened"),
        ("early", "of a time yet to come"),
        ("imputed", "filled in before"),
    ):
        table.add_row(name.replace("_", " "), f"{document[name]['share']:.2%}", note)
    for name, share in document["missing"].items():
        table.add_row("missing", f"{share:.2%}", _plain(name))
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{_plain(name)} {count:,}" for name, count in counts.items())
