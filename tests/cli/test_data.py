from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from shortlist.cli.data import app
from shortlist.errors import ConfigError, DataError

LOG = "who,what,timestamp\n" + "".join(f"u{event % 5},i{event % 7},{10**9 + event}\n" for event in range(40))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG + "u1,,1000000000\n")
    return path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["describe", *arguments])
    if result.exception is not None:
        raise result.exception
    return result


def describe_log(log: Path, *more: str) -> Result:
    return run("table", "--path", str(log), "--column", "user_id=who", "--column", "item_id=what", *more)


def test_it_prints_counts_rejections_and_a_picture(log: Path) -> None:
    output = describe_log(log).stdout
    for expected in ("interactions", "40", "1 × what is empty", "2001-09-09T01:46:40", "█"):
        assert expected in output


def test_json_is_nothing_but_json(log: Path) -> None:
    assert json.loads(describe_log(log, "--json").stdout)["rejected"] == {"what is empty": 1}


def test_a_configuration_file_names_the_data(log: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{source: table, path: {log}, columns: {{user_id: who, item_id: what}}}}\n")
    assert json.loads(run(str(config), "--json").stdout)["interactions"] == 40


def test_a_saved_data_set_can_be_described_again(log: Path, tmp_path: Path) -> None:
    first = describe_log(log, "--save", str(tmp_path / "saved"), "--json").stdout
    assert run(str(tmp_path / "saved"), "--json").stdout == first
    assert pl.read_parquet(tmp_path / "saved" / "rejected.parquet").height == 1


def test_the_picture_can_be_a_png(log: Path, tmp_path: Path) -> None:
    describe_log(log, "--png", str(tmp_path / "data.png"))
    assert (tmp_path / "data.png").stat().st_size > 1000


def test_the_limit_of_rejected_rows_can_be_given(log: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 41 rows"):
        describe_log(log, "--max-rejected", "0.01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], r"data\.source = 'nowhere'"),
        (["table", "--column", "user_id"], "'user_id' is no mapping"),
        (["absent.yaml"], "absent.yaml: cannot be read"),
        (["table", "--png", "data.foo"], "--png = data.foo: the suffix .png is allowed"),
    ],
)
def test_bad_arguments_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
