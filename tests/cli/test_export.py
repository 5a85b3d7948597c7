"""`shortlist export` as a person runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.export import export
from shortlist.errors import BundleError, ConfigError
from shortlist.serving.model_config import read_config

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


def test_without_a_gpu_plans_are_left_for_later_and_it_says_so(run: Path, tmp_path: Path) -> None:
    done = invoke(run, "--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"))
    assert "no plans are built" in done.stderr
    assert (tmp_path / "out" / "filter" / "1" / "model.onnx").is_file()
    assert not list(tmp_path.rglob("*.plan"))


def test_plans_that_must_be_built_now_need_a_gpu(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export on that machine"):
        invoke(run, "--target", "gpu", "--engines", "now", "--out", str(tmp_path / "out"))


def test_the_memory_plan_is_shown_and_told_as_json(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"), "--gpu-memory", "40")
    assert "2 instances" in invoke(run, *options).stdout
    memory = json.loads(invoke(run, *options, "--json").stdout)["memory"]
    assert memory["total"] == 2 * memory["per_instance"] == 2 * sum(need["bytes"] for need in memory["needs"])


def test_a_gpu_that_is_too_small_is_refused(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"), "--gpu-memory", "0.5")
    with pytest.raises(ConfigError, match=r"--gpu-memory = 0\.5: 2 instances need .* GB, each .*use a larger GPU"):
        invoke(run, *options)
    assert not (tmp_path / "out").exists()


def test_the_report_is_printed_and_kept(planted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shortlist.export.report.CAPABILITIES", (89,))
    told = json.loads(invoke(planted_run, "--out", str(tmp_path / "out"), "--report", "--json").stdout)
    assert {"engines", "qdq_nodes", "overlap"} <= set(told)
    assert {(e["model"], e["precision"], e["sm"]) for e in told["engines"] if e["ok"]} >= {
        (model, precision, 89) for model in ("filter", "ranker") for precision in ("fp32", "fp16", "bf16", "int8")
    }
    assert json.loads((tmp_path / "out" / "report.json").read_text())["engines"] == told["engines"]


def invoke(run: Path, *options: str) -> Any:
    return CliRunner().invoke(APP, [str(run), *options], catch_exceptions=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="shortlist train"):
        CliRunner().invoke(APP, [str(tmp_path), "--out", str(tmp_path / "out")], catch_exceptions=False)


def test_help_shows_an_example() -> None:
    assert "shortlist export runs/demo" in CliRunner().invoke(APP, ["--help"]).output


def test_gpus_reach_the_configurations_and_the_memory_plan(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"), "--gpus", "0,1")
    memory = json.loads(invoke(run, *options, "--json").stdout)["memory"]
    assert (memory["gpus"], memory["total"]) == ([0, 1], 2 * memory["per_instance"])
    for model in ("cascade", "filter", "ranker"):
        (group,) = read_config(tmp_path / "out" / model / "config.pbtxt").instance_group
        assert list(group.gpus) == [0, 1]


@pytest.mark.parametrize("options", [("--gpus", "0,0"), ("--gpus", "0,1", "--index-gpus", "halves")], ids=str)
def test_gpus_that_cannot_be_are_refused(options: tuple[str, ...], run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{options[-2]} = '{options[-1]}'"):
        invoke(run, "--target", "gpu", "--out", str(tmp_path / "out"), *options)


def test_the_index_of_a_gpu_can_be_chosen_and_counts(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"), "--json")
    told = invoke(run, *options, "--gpu-index", "cagra", "--gpu-temp-memory", "64")
    needs = {need["name"]: need for need in json.loads(told.stdout)["memory"]["needs"]}
    assert needs["FAISS temporary memory"]["bytes"] == 64 << 20
    assert needs["index"]["note"].startswith("cagra")


@pytest.mark.parametrize(
    ("option", "value"),
    [("precision", "filter=fp16"), ("engines", "later"), ("gpu-memory", "20"), ("gpus", "0"), ("index-gpus", "shards"),
     ("gpu-index", "flat"), ("gpu-temp-memory", "64")],
)  # fmt: skip
def test_options_of_a_gpu_are_refused_for_the_cpu(option: str, value: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--{option} = .*: allowed with --target gpu alone"):
        invoke(run, "--out", str(tmp_path / "out"), f"--{option}", value)
    assert not (tmp_path / "out").exists()


def test_what_is_left_for_later_is_said_when_all_is_valid(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--precision", "filter=fp16", "--out", str(tmp_path / "out"), "--gpu-memory", "0.5")
    result = CliRunner().invoke(APP, [str(run), *options])
    assert isinstance(result.exception, ConfigError)
    assert result.stderr == ""


@pytest.mark.parametrize("size", ["0", "inf"])
def test_a_memory_that_no_gpu_has_is_refused(size: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a number of GB above 0 is allowed"):
        invoke(run, "--target", "gpu", "--out", str(tmp_path / "out"), "--gpu-memory", size)


def test_another_precision_becomes_a_version_and_its_number_is_told(run: Path, tmp_path: Path) -> None:
    options = ("--target", "gpu", "--out", str(tmp_path / "out"), "--precision")
    invoke(run, *options, "filter=fp16")
    assert "version 2" in invoke(run, *options, "filter=fp32").stdout
