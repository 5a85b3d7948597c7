"""`shortlist events consume`, `replay` and `export`, as they are typed."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.errors import ConfigError, DataError
from shortlist.events.consumer import NEEDS_OPERATOR
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.layout import unpack
from shortlist.profiles.store import PROFILE, ProfileStore
from tests.eligible import attributes_of, make_items
from tests.factories import make_bundle
from tests.profiles.making import event, pairs, stream


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 600 events of 20 people."""
    folder = tmp_path / "log"
    writer = LocalLog(folder, partitions=2)
    writer.append(pairs(stream(600, users=20)))
    writer.close()
    return folder


def run(*words: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["events", *map(str, words), "--json"], catch_exceptions=False)
    found: dict[str, object] = json.loads(result.output)
    return found | {"exit": result.exit_code}


def consume(*words: object) -> None:
    CliRunner().invoke(app, ["events", "consume", *map(str, words)], catch_exceptions=False)


def test_consume_works_until_it_is_asked_to_end(log: Path, store: ProfileStore, server: EmbeddedStore) -> None:
    port = free_port()
    command = [sys.executable, "-m", "shortlist.cli.main", "events", "consume", str(log), "--profiles", server.url]
    with subprocess.Popen([*command, "--metrics-port", str(port)], stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        source = LocalSource(log)
        while any(store.offset(source.name, p) != e for p, e in source.ends().items()) and time.monotonic() < end:
            time.sleep(0.05)
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert 'shortlist_events_total{outcome="applied"}' in metrics
    assert run("replay", log, "--profiles", server.url, "--check")["profiles_equal"] is True


def test_dead_letters_do_not_go_into_the_log_itself(log: Path, server: EmbeddedStore) -> None:
    with pytest.raises(ConfigError, match="is the log itself"):
        consume(log, "--profiles", server.url, "--dead-letters", log.parent / "other" / ".." / "log")


def test_a_taken_port_of_metrics_is_named(log: Path, server: EmbeddedStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--metrics-port = {port}: cannot listen"):
            consume(log, "--profiles", server.url, "--metrics-port", port)


@pytest.mark.parametrize("wrong", ["offset", "profile"])
def test_what_somebody_has_to_see_to_has_an_exit_status_of_its_own(
    log: Path, store: ProfileStore, server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    if wrong == "offset":
        store.commit(LocalSource(log).name, 0, None, 10_000, {})
    else:
        store.command("SET", PROFILE + b"user1", b"of another format")
    ended = CliRunner().invoke(app, ["events", "consume", str(log), "--profiles", server.url])
    said = {"offset": "error: offset 10000", "profile": "error: profile: "}[wrong]
    assert (ended.exit_code, ended.stderr.count(said)) == (NEEDS_OPERATOR, 1)


def test_replay_fills_an_empty_store_as_the_check_wants_it(
    log: Path, store: ProfileStore, server: EmbeddedStore
) -> None:
    assert run("replay", log, "--profiles", server.url)["profiles"] == 20
    assert run("replay", log, "--profiles", server.url, "--check") == {
        "profiles_equal": True,
        "equal": 20,
        "different": 0,
        "unknown": 0,
        "some": [],
        "exit": 0,
    }


def test_replay_does_not_write_over_profiles(log: Path, store: ProfileStore, server: EmbeddedStore) -> None:
    run("replay", log, "--profiles", server.url)
    with pytest.raises(DataError, match="--check"):
        run("replay", log, "--profiles", server.url)


def test_a_check_that_fails_names_users_and_fails_the_command(
    log: Path, store: ProfileStore, server: EmbeddedStore
) -> None:
    run("replay", log, "--profiles", server.url)
    store.command("DEL", "sl:p:user4")
    found = run("replay", log, "--profiles", server.url, "--check")
    assert (found["profiles_equal"], found["some"], found["exit"]) == (False, ["user4"], 1)


def test_affinities_are_of_the_bundles_categories(tmp_path: Path, store: ProfileStore, server: EmbeddedStore) -> None:
    writer = LocalLog(tmp_path / "log")
    writer.append(pairs([event("item-3")]))
    writer.close()
    items = make_items(300)
    bundle = make_bundle(tmp_path / "bundle", attributes=attributes_of(items))
    run("replay", tmp_path / "log", "--profiles", server.url, "--bundle", bundle)
    (blob,) = store.read([b"u"])
    assert blob is not None
    names = {f"{name}:{v}" for name in ("in_stock", "locale", "genres") for v in items[3][name]}
    assert set(unpack(blob).affinities.at(0, 1)) == names


def test_export_writes_parquet_and_not_over_something(log: Path, tmp_path: Path) -> None:
    words = ["events", "export", str(log), str(tmp_path / "out"), "--arrival", "happened"]
    assert CliRunner().invoke(app, words).output == f"{len(pl.read_parquet(tmp_path / 'out'))} rows\n"
    with pytest.raises(DataError, match="not empty"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_an_arrival_that_is_none_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="appended or happened"):
        CliRunner().invoke(app, ["events", "export", str(log), str(tmp_path), "--arrival", "x"], catch_exceptions=False)
