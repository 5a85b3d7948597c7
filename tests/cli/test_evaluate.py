"""The verb `evaluate`: up to where the work begins, and once to the end."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.evaluate import evaluate
from shortlist.evaluation import experiment
from shortlist.evaluation.report import Evaluation

APP = typer.Typer()
APP.command()(evaluate)
FOUND = Evaluation("rolling", 10, 5, {"cascade": {"ndcg@10": 0.125}}, reference="cascade")


class Evaluated:
    evaluation = FOUND


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    made: list[tuple[object, ...]] = []

    def evaluate_run(
        run: Path, protocol: str, *, baselines: bool, sample: int | None, show_progress: bool
    ) -> Evaluated:
        made.append((run, protocol, baselines, sample))
        return Evaluated()

    monkeypatch.setattr(experiment, "evaluate_run", evaluate_run)
    return made


def test_options_reach_the_evaluation(calls: list[tuple[object, ...]], tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(tmp_path), "--protocol", "rolling", "--no-baselines", "--sample", "50"])
    assert result.exit_code == 0
    assert calls == [(tmp_path, "rolling", False, 50)]


@pytest.mark.usefixtures("calls")
def test_json_is_all_that_is_printed(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(tmp_path), "--json"])
    assert json.loads(result.stdout) == FOUND.to_json()


def test_json_is_pure_where_a_protocol_is_trained_first(planted_run: Path) -> None:
    arguments = [str(planted_run), "--protocol", "cold-users", "--no-baselines", "--json"]
    result = CliRunner().invoke(APP, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["protocol"] == "cold-users"


@pytest.mark.usefixtures("calls")
def test_the_report_lies_in_the_run(tmp_path: Path) -> None:
    CliRunner().invoke(APP, [str(tmp_path), "--protocol", "rolling"])
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["rolling.html", "rolling.json"]


def test_an_unknown_protocol_is_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(tmp_path), "--protocol", "random"])
    assert result.exit_code == 2
    assert "cold-users" in result.output
