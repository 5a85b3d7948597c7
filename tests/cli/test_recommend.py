"""`shortlist recommend` in process; over gRPC it is tested beside `serve`."""

import json
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from shortlist.bundle import Bundle, write_bundle
from shortlist.cli.recommend import recommend, survival
from shortlist.errors import BundleError, ConfigError, RequestError

APP = typer.Typer()
APP.command()(recommend)


def shown(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "160"})
    assert result.exit_code == 0
    return result.output


def test_a_slate_is_shown(run: Path) -> None:
    output = shown(run, "--user", "user-0", "--k", 5)
    assert output.count("item-") == 5
    assert "user user-0: full" in output


def test_a_trace_adds_ranks_reasons_and_times(run: Path) -> None:
    output = shown(run, "--user", "user-0", "--trace")
    assert all(word in output for word in ("retrieve", "filter", "rank", "why", "ms"))


def test_a_stranger_gets_what_is_popular(run: Path) -> None:
    assert "popular in this context" in shown(run, "--user", "nobody", "--trace")


def test_every_option_reaches_the_cascade(run: Path) -> None:
    plain = shown(run, "--history", "item-1", "--history", "item-2", "--k", 3)
    first = next(word for word in plain.split() if word.startswith("item-"))
    options = ("--diversity", 0, "--context", '{"hour": 3}', "--exclude", first)
    assert first not in shown(run, "--history", "item-1", "--history", "item-2", "--k", 3, *options).split()


def test_titles_are_shown_when_the_run_has_them(run: Path, tmp_path: Path) -> None:
    titles = pl.DataFrame({"item_id": [f"item-{i}" for i in range(300)], "name": [f"Title [{i}]" for i in range(300)]})
    titles.write_parquet(tmp_path / "items.parquet")
    tiny = Bundle.open(run / "bundle")
    write_bundle(
        tmp_path / "bundle",
        arrays={},
        graphs={},
        documents={},
        files={**{name: tiny.path / name for name in tiny.files}, "items.parquet": tmp_path / "items.parquet"},
        metadata={**tiny.metadata, "title": "name"},
    )
    assert shown(tmp_path, "--user", "user-0", "--k", 4).count("Title [") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--k", 51), "^k = 51"), (("--diversity", 2), "^diversity = 2"), (("--context", "{"), "^--context"),
     (("--context", "[]"), "^context"), (("--user", "x" * 300), "^user_id"),
     (("--user", "\udcff"), "^user_id = .*valid UTF-8"), (("--history", "i\udcff"), "^history = .*valid UTF-8")],
)  # fmt: skip
def test_bad_options_are_refused_as_the_server_would(run: Path, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        shown(run, *arguments)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="shortlist train"):
        shown(tmp_path)


@pytest.mark.parametrize(
    ("ranks", "slot", "reason"),
    [
        ({"retrieve": 40, "filter": 30, "rank": 1}, 1, "rank lifted it 29 places"),
        ({"retrieve": 40, "filter": 2, "rank": 1}, 1, "filter lifted it 38 places"),
        ({"retrieve": 1, "filter": 1, "rank": 2}, 3, "retrieve had it high, diversity moved it down 1"),
        ({"retrieve": 9, "filter": 9, "rank": 9}, 2, "retrieve had it high, diversity moved it up 7"),
        ({"popularity": 3}, 1, "popular in this context"),
    ],
    ids=json.dumps,
)
def test_the_reason_names_the_stage_that_helped_most(ranks: dict[str, int], slot: int, reason: str) -> None:
    assert survival(ranks, slot) == reason


def test_help_shows_an_example() -> None:
    assert "shortlist recommend runs/demo" in CliRunner().invoke(APP, ["--help"]).output


def test_a_gpu_that_cannot_be_used_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: "there is no GPU")
    with pytest.raises(ConfigError, match="device = 'gpu': there is no GPU"):
        shown(run, "--device", "gpu")


def test_auto_answers_from_the_cpu_where_there_is_no_gpu(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.devices.probe.what_is_missing", lambda *_: "there is no GPU")
    assert "user user-0: full" in shown(run, "--user", "user-0", "--device", "auto")


@pytest.mark.parametrize("option", [("--device", "gpu"), ("--device", "cpu"), ("--engines", "plans")], ids=" ".join)
def test_a_server_has_its_own_device(option: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{option[0]} = '{option[1]}': not allowed with --url"):
        shown("--url", "localhost:1", *option)


def test_plans_are_of_no_use_to_the_cpu(run: Path) -> None:
    with pytest.raises(ConfigError, match="--engines = 'plans': allowed with --device gpu or auto"):
        shown(run, "--engines", "plans")
