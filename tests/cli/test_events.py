from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shortlist.cli.events import app
from shortlist.errors import ConfigError
from shortlist.events.local_log import LocalLog
from shortlist.events.schema import encode, parse
from tests.events.making import event, keyed


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == code
    return result


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file of three good events and two bad ones."""
    path = tmp_path / "events.jsonl"
    good = [event(1, type="rating", value=4.0), event(2, type="rating"), event(3)]
    path.write_bytes(b"\n".join([*map(encode, good), b'{"event_id": "e"}', b"\xff"]))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    sink = LocalLog(tmp_path / "log", partitions=2)
    for number in range(6):
        sink.append(keyed(event(number, user_id=f"user-{number}")))
    sink.append([(b"", b"no event")])
    sink.close()
    return tmp_path / "log"


def test_refused_lines_are_shown_with_their_number_and_fail_the_command(lines: Path) -> None:
    output = run("validate", lines, code=1).stdout
    assert "4" in output
    assert "user_id" in output
    assert "5 events, 2 refused" in output


def test_validate_gives_json(lines: Path) -> None:
    document = json.loads(run("validate", lines, "--json", code=1).stdout)
    assert [(found["line"], found["field"]) for found in document["refused"]] == [(4, "user_id"), (5, "event")]


def test_good_events_pass(tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_bytes(encode(event()) + b"\n")
    assert "1 events, 0 refused" in run("validate", tmp_path / "good.jsonl").stdout


@pytest.mark.parametrize("where", ["lines", "log"])
def test_quality_reads_files_and_logs(where: str, request: pytest.FixtureRequest) -> None:
    document = json.loads(run("quality", request.getfixturevalue(where), "--json").stdout)
    assert (document["records"] - document["events"]) == {"lines": 2, "log": 1}[where]


def test_quality_draws_a_table(lines: Path) -> None:
    output = run("quality", lines).stdout
    assert "value of rating" in output
    assert "50.00%" in output


def test_imputed_events_are_written_and_say_so(lines: Path, tmp_path: Path) -> None:
    run("quality", lines, "--impute", "mean", "--out", tmp_path / "filled.jsonl")
    filled = [parse(line) for line in (tmp_path / "filled.jsonl").read_bytes().splitlines()]
    assert [(e.value, e.imputed) for e in filled] == [(4.0, None), (4.0, "mean"), (None, None)]


def test_a_file_that_is_there_is_not_overwritten(lines: Path) -> None:
    with pytest.raises(FileExistsError):
        run("quality", lines, "--impute", "mean", "--out", lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--impute", "guess", "--out", "x"], "one of mean, median, user_mean, knn"),
        (["--impute", "mean"], "belong together"),
        (["--late-after", "inf"], "--late-after = inf"),
    ],
)
def test_wrong_options_of_quality_are_named(lines: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("quality", lines, *options)


def test_tail_shows_the_newest_with_what_was_refused(log: Path) -> None:
    output = run("tail", log).stdout
    assert "user-5 click i1" in output
    assert "event = b'no event'" in output


def test_tail_shows_as_many_as_are_asked_for(log: Path) -> None:
    assert len(run("tail", log, "-n", 2).stdout.splitlines()) == 2


def test_tail_of_one_person_shows_nobody_else(log: Path) -> None:
    shown = [json.loads(line) for line in run("tail", log, "--user", "user-3", "--json").stdout.splitlines()]
    assert [line["event"]["user_id"] for line in shown] == ["user-3"]


def test_ids_cannot_steer_the_terminal(tmp_path: Path) -> None:
    sink = LocalLog(tmp_path / "log")
    sink.append(keyed(event(user_id="\x1b[2Jann")))
    sink.close()
    assert "\x1b" not in run("tail", tmp_path / "log").stdout
