"""`shortlist export` as a person runs it."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.export import export
from shortlist.errors import BundleError, ConfigError

APP = typer.Typer()
APP.command()(export)


def test_a_run_becomes_a_repository(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(run), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert f"shortlist serve {tmp_path / 'out'}" in result.output
    assert (tmp_path / "out" / "cascade" / "1" / "bundle" / "manifest.json").is_file()


def test_the_number_of_instances_reaches_the_configuration(run: Path, tmp_path: Path) -> None:
    CliRunner().invoke(APP, [str(run), "--out", str(tmp_path / "out"), "--instances", "7"])
    assert "count: 7" in (tmp_path / "out" / "cascade" / "config.pbtxt").read_text()


def test_stage_models_come_on_demand(run: Path, tmp_path: Path) -> None:
    CliRunner().invoke(APP, [str(run), "--out", str(tmp_path / "out"), "--stages"])
    assert (tmp_path / "out" / "rank" / "1" / "model.py").is_file()


def test_the_gpu_target_says_that_it_is_not_available_yet(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not available yet"):
        CliRunner().invoke(APP, [str(run), "--target", "gpu", "--out", str(tmp_path / "out")], catch_exceptions=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="shortlist train"):
        CliRunner().invoke(APP, [str(tmp_path), "--out", str(tmp_path / "out")], catch_exceptions=False)


def test_help_shows_an_example() -> None:
    assert "shortlist export runs/demo" in CliRunner().invoke(APP, ["--help"]).output
