import io
import json
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.kernels.benchmark import tables


def test_kernels_are_compared_with_their_rivals(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["bench", "kernels", "--rounds", "1", "--table", "20000", "--json", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report == json.loads(out.read_text())
    assert {"speedup_vs_pyversity", "speedup_vs_numpy"} <= report["mmr"].keys()
    assert {"speedup_vs_numpy", "fraction_of_bandwidth"} <= report["fuse_features"].keys()


def test_numbers_come_out_as_tables() -> None:
    (table,) = tables({"mmr": {"speedup_vs_numpy": 48.123456, "rounds": 3}})
    console = Console(record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert "mmr" in text
    assert "48.12" in text
