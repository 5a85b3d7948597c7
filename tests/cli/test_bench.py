import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.errors import MissingExtraError, install_hint
from shortlist.evaluation import students
from shortlist.kernels.benchmark import tables


def test_kernels_are_compared_with_their_rivals(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["bench", "kernels", "--rounds", "1", "--table", "20000", "--json", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report == json.loads(out.read_text())
    assert {"speedup_vs_pyversity", "speedup_vs_numpy"} <= report["mmr"].keys()
    fused = report["fuse_features"]
    assert {"speedup_vs_numpy", "fraction_of_bandwidth"} <= fused.keys()
    alone = fused["speedup_vs_numpy_alone"], fused["speedup_vs_torch"]
    assert fused["speedup_vs_best_of_numpy_and_torch"] == min(alone) == fused["speedup_vs_numpy"]


def test_numbers_come_out_as_tables() -> None:
    (table,) = tables({"mmr": {"speedup_vs_numpy": 48.123456, "rounds": 3}})
    console = Console(record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert "mmr" in text
    assert "48.12" in text


def test_filters_are_compared_by_the_run_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare_students(run: Path, *, rounds: int, show_progress: bool) -> dict[str, str]:
        return {"run": str(run), "rounds": str(rounds)}

    monkeypatch.setattr(students, "compare_students", compare_students)
    out = tmp_path / "students.json"
    done = CliRunner().invoke(app, ["bench", "students", str(tmp_path), "--rounds", "7", "--json", "--out", str(out)])
    assert json.loads(done.stdout) == json.loads(out.read_text()) == {"run": str(tmp_path), "rounds": "7"}


def test_a_missing_rival_is_told_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["bench", "kernels"])
    assert isinstance(done.exception, MissingExtraError)
    assert install_hint("bench") in str(done.exception)
