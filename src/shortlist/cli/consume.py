"""`shortlist events consume`, `replay` and `export`: from the log to profiles, live, anew, and as they were."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.cli.options import Kafka, Profiles
from shortlist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from shortlist.events.transport import Source
    from shortlist.profiles.state import Facts, Moved
    from shortlist.profiles.store import ProfileStore

_PATIENCE_S = 5.0  # of a batch; nobody waits for the answer as a request would
Log = Annotated[str, typer.Argument(help="The log: a folder, or kafka://host:port/topic.")]
Bundle = Annotated[Path | None, typer.Option(help="Bundle whose item attributes are the categories of affinities.")]
Vectors = Annotated[
    bool, typer.Option(help="Move user vectors with every event, in the space of --bundle: the tower runs for each.")
]


def consume(
    log: Log,
    profiles: Profiles,
    bundle: Bundle = None,
    dead_letters: Annotated[str | None, typer.Option(help="Where refused events go: a folder, or kafka://…")] = None,
    group: Annotated[str, typer.Option(help="Consumer group that shares the partitions of a topic.")] = "shortlist",
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics here.")] = None,
    vectors: Vectors = False,
    kafka: Kafka = None,
) -> None:
    """Turn events into profiles until Ctrl-C. Start it again, or more of it, at any time: no event counts twice.

    Example: shortlist events consume build/events --profiles valkey://127.0.0.1:6379/0 --bundle runs/demo/bundle
    """
    from shortlist.events.consumer import NEEDS_OPERATOR, Consumer
    from shortlist.events.meters import Meters, serve
    from shortlist.events.transport import OffsetError, open_sink, open_source

    if dead_letters and same_log(log, dead_letters):
        raise ConfigError(f"--dead-letters = {dead_letters}: is the log itself, which would never end; name another")
    source = open_source(log, group, _settings(kafka))
    dead = open_sink(dead_letters, _settings(kafka)) if dead_letters else None
    meters = Meters()
    server = serve(meters, metrics_port) if metrics_port is not None else None
    if server:
        typer.echo(f"metrics: http://127.0.0.1:{server.server_address[1]}/metrics", err=True)
    consumer = Consumer(
        source,
        _store(profiles),
        _facts(bundle),
        dead,
        meters,
        lambda line: typer.echo(line, err=True),
        moved=_moved(bundle, vectors),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: consumer.stop())
    typer.echo(f"consuming {log}; Ctrl-C stops")
    try:
        consumer.run()
    except (OffsetError, DataError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(NEEDS_OPERATOR) from error
    finally:
        source.close()
        if dead:
            dead.close()
        if server:
            server.shutdown()
            server.server_close()


def replay(
    log: Log,
    profiles: Profiles,
    bundle: Bundle = None,
    check: Annotated[bool, typer.Option(help="Write nothing: compare the store with the log, byte by byte.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    vectors: Vectors = False,
    kafka: Kafka = None,
) -> None:
    """Compute all profiles from the log's beginning, into a store that is empty; or check those of a live one.

    Example: shortlist events replay build/events --profiles valkey://127.0.0.1:6379/0 --bundle runs/demo/bundle --check
    """
    from shortlist.events.transport import open_source

    source = open_source(log, None, _settings(kafka))
    try:
        result = (_check if check else _fill)(source, _store(profiles), _facts(bundle), _moved(bundle, vectors))
    finally:
        source.close()
    typer.echo(json.dumps(result) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    if check and not result["profiles_equal"]:
        raise typer.Exit(1)


def export(
    log: Log,
    out: Annotated[Path, typer.Argument(help="Folder to write Parquet files into.")],
    bundle: Bundle = None,
    arrival: Annotated[
        str, typer.Option(help="Known before an event is what was appended before it, or happened before it.")
    ] = "appended",
    kafka: Kafka = None,
) -> None:
    """Write each event with its user's profile as it was known before it, for training.

    Example: shortlist events export build/events build/known --bundle runs/demo/bundle
    """
    from shortlist.events.transport import open_source
    from shortlist.profiles.known import export as write

    if arrival not in ("appended", "happened"):
        raise ConfigError(f"--arrival = {arrival!r}: appended or happened is allowed")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; name a new folder")
    source = open_source(log, None, _settings(kafka))
    try:
        typer.echo(f"{write(source, _facts(bundle), out, 'happened' if arrival == 'happened' else 'appended')} rows")
    finally:
        source.close()


def same_log(one: str, other: str) -> bool:
    """Whether both name one log."""
    from shortlist.events.transport import KAFKA, broker_and_topic

    if one.startswith(KAFKA) != other.startswith(KAFKA):
        return False
    if one.startswith(KAFKA):
        return broker_and_topic(one) == broker_and_topic(other)
    return Path(one).resolve() == Path(other).resolve()


def _check(source: Source, store: ProfileStore, facts: Facts, moved: Moved) -> dict[str, object]:
    from shortlist.profiles.offline import compare

    found = compare(source, store, facts, moved)
    differing = {"different": len(found.different), "unknown": len(found.unknown)}
    some = [user.decode() for user in (found.different + found.unknown)[:10]]
    return {"profiles_equal": not some, "equal": found.equal, **differing, "some": some}


def _fill(source: Source, store: ProfileStore, facts: Facts, moved: Moved) -> dict[str, object]:
    from shortlist.events.consumer import Consumer

    ends = {p: end for p, end in source.ends().items() if end > source.begin()[p]}
    if held := [p for p in ends if store.offset(source.name, p) is not None]:
        raise DataError(f"store {store.address}: holds profiles of partitions {held} of this log; empty it, or --check")
    consumer = Consumer(source, store, facts, tell=lambda line: typer.echo(line, err=True), moved=moved)
    consumer.run(until=ends)
    return {"profiles": len(store.users()), **consumer.meters.outcomes}


def _store(url: str) -> ProfileStore:
    from shortlist.profiles.store import ProfileStore

    return ProfileStore(url, timeout_s=_PATIENCE_S)


def _facts(bundle: Path | None) -> Facts:
    from shortlist.profiles.facts import bundle_facts, no_facts

    return bundle_facts(bundle) if bundle else no_facts


def _moved(bundle: Path | None, vectors: bool) -> Moved:
    from shortlist.profiles.state import unmoved

    if not vectors:
        return unmoved
    if bundle is None:
        raise ConfigError("--vectors: user vectors are moved in the space of a bundle; give --bundle too")
    from shortlist.profiles.drift import Drift

    return Drift(bundle)


def _settings(file: Path | None) -> dict[str, str]:
    from shortlist.events.transport import read_settings

    return read_settings(file) if file else {}
