"""`shortlist events import`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from shortlist.cli.main import app
from shortlist.errors import ConfigError, DataError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.layout import unpack
from shortlist.profiles.store import ProfileStore

LOG = """customer,item_id,timestamp,event
ann,i1,2024-03-01T10:00:00.250Z,view
ann,i2,2024-03-01T09:00:00Z,buy
bob,i1,2024-03-01T10:00:00Z,buy
bob,,2024-03-01T10:00:00Z,buy
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    path.write_text(LOG)
    return path


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["events", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == code
    return result


OPTIONS = ("--column", "user_id=customer", "--type", "buy=share", "--max-rejected", "0.5")


def test_what_a_configuration_describes_comes_into_profiles(file: Path, tmp_path: Path) -> None:
    data = {"source": "table", "path": str(file), "columns": {"user_id": "customer"}, "max_rejected": 0.5}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": data}))
    told = run("import", tmp_path / "mine.yaml", tmp_path / "log", "--type", "buy=share").stdout
    assert "4 rows of history.csv, 2024-03-01 to 2024-03-01" in told
    assert "3 events appended, 0 were there already\n1 refused: item_id 1\n" in told
    with EmbeddedStore(tmp_path / "store") as server:
        run("replay", tmp_path / "log", "--profiles", server.url)
        (blob,) = ProfileStore(server.url).read([b"ann"])
    assert blob is not None
    assert [(item, kind, moment % 1000) for item, kind, _, moment in unpack(blob).history] == [
        (b"i2", "share", 0),
        (b"i1", "view", 250),
    ]


def test_a_dry_run_counts_and_writes_nothing(file: Path, tmp_path: Path) -> None:
    words = ["import", file, tmp_path / "log", *OPTIONS, "--dead-letters", tmp_path / "dead", "--dry-run"]
    assert "3 events would be appended, 0 were there already" in run(*words).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_refused_rows_are_shown_by_tail(file: Path, tmp_path: Path) -> None:
    words = ["import", file, tmp_path / "log", *OPTIONS, "--dead-letters", tmp_path / "dead", "--json"]
    assert json.loads(run(*words).stdout)["refused"] == {"item_id": 1}
    assert 'history.csv 0:5 item_id is empty | {"customer": "bob"' in run("tail", tmp_path / "dead").stdout


def test_more_refused_rows_than_allowed_are_a_failure(file: Path, tmp_path: Path) -> None:
    file.write_text(LOG.replace("bob,,", "bob,i9,").replace("ann,", "a" * 65 + ","))
    told = run("import", file, tmp_path / "log", "--column", "user_id=customer", "--type", "buy=share", code=1).stdout
    assert "2 refused: user_id 2" in told


def test_a_file_that_is_mostly_wrong_is_not_begun(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 4 rows \(25.0%\) are rejected"):
        run("import", file, tmp_path / "log", "--column", "user_id=customer")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--type", "like", "--type", "click"], "one for all is allowed"),
        (["--dead-letters", "LOG"], "is the log itself"),
    ],
)
def test_wrong_options_of_import_are_named(file: Path, tmp_path: Path, options: list[str], message: str) -> None:
    log = str(tmp_path / "log")
    with pytest.raises(ConfigError, match=message):
        run("import", file, log, *OPTIONS[:2], "--max-rejected", 1, *[log if o == "LOG" else o for o in options])
