"""`shortlist items`, against a real store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.events.items import ADDED, ItemStore
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore
from tests.factories import make_bundle

CONTENTS = [{"genre": f"g{i % 4}", "moods": ["dark", f"m{i % 3}"], "year": 1990.0 + i} for i in range(12)]
Run = Callable[..., str]


@pytest.fixture
def run(server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command over an empty store, and returns what it printed or why it failed."""
    ProfileStore(server.url).command("FLUSHALL")
    monkeypatch.setenv("SHORTLIST_PROFILES", server.url)

    def command(*words: object) -> str:
        done = CliRunner().invoke(app, ["items", *map(str, words)])
        return str(done.exception) if done.exception else done.output.strip()

    return command


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("items") / "bundle", contents=CONTENTS)


def _listed(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("list", "--json"))
    return found


def test_items_are_removed_and_restored(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("item-2\nitem-3\n\n")
    assert run("remove", "item-1", "item-2").startswith("2 of 2 items removed")
    assert run("remove", "--file", tmp_path / "ids") == "1 of 2 items removed; the others were removed already"
    assert run("restore", "item-1").startswith("1 of 1 items restored")
    assert _listed(run) == {"removed": ["item-2", "item-3"], "added": {}}


def test_ids_that_nobody_knows_are_told_of_and_removed(run: Run, server: EmbeddedStore, bundle: Path) -> None:
    ItemStore(server.url).add({b"new": {}})
    said = run("remove", "item-1", "new", "itme-2", "--bundle", bundle)
    assert "3 of 3 items removed" in said
    assert said.endswith("1 are neither in the bundle nor new: itme-2")


def test_what_somebody_else_wrote_wrong_is_told_and_can_be_dropped(run: Run, server: EmbeddedStore) -> None:
    ProfileStore(server.url).command("HSET", ADDED, "bad", "{")
    assert "passed over: sl:items:added, item b'bad'" in run("list")
    run("forget", "bad")
    assert run("list") == "0 removed, 0 added"


def test_new_items_are_added_from_lines_of_json(run: Run, bundle: Path, tmp_path: Path) -> None:
    new = [{"item_id": "new-1", "genre": "g1", "moods": ["dark"], "year": 2001}, {"item_id": 7}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(item) + "\n" for item in new))
    assert run("add", tmp_path / "new.jsonl", "--bundle", bundle) == "2 of 2 items added"
    assert _listed(run)["added"] == {"7": {}, "new-1": {"genre": "g1", "moods": ["dark"], "year": 2001}}


def test_new_items_are_added_from_a_table_as_for_training(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("item_id,genre,moods,year\nnew-1,g1,dark|m1,2001\nnew-2,,m2,\n")
    run("add", tmp_path / "new.csv", "--bundle", bundle)
    assert _listed(run)["added"] == {
        "new-1": {"genre": "g1", "moods": ["dark", "m1"], "year": 2001.0},
        "new-2": {"moods": ["m2"]},
    }


def test_what_the_bundle_has_is_not_added(run: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"item_id": "item-3", "genre": "g1"}')
    assert run("add", tmp_path / "new.jsonl", "--bundle", bundle) == "0 of 1 items added; 1 are in the bundle already"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"genre": "g1"}', "item 1: item_id = None: a string is allowed"),
        ('{"item_id": "a", "colour": "red"}', "item 1: item.colour = 'red' is invalid"),
        ('{"item_id": "a", "year": "soon"}', "item 1: item.year = 'soon' is invalid"),
        ('["a"]', "line 1: a JSON object is allowed"),
        ("{", "line 1: is no JSON"),
    ],
)
def test_an_impossible_item_is_named_and_nothing_added(
    run: Run, bundle: Path, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "new.jsonl").write_text(line + "\n")
    assert said in run("add", tmp_path / "new.jsonl", "--bundle", bundle)
    assert _listed(run)["added"] == {}


def test_a_bundle_that_cannot_take_new_items_refuses_them(run: Run, tmp_path: Path) -> None:
    plain = make_bundle(tmp_path / "plain")
    (tmp_path / "new.jsonl").write_text('{"item_id": "a"}')
    assert "cannot take new items" in run("add", tmp_path / "new.jsonl", "--bundle", plain)


def test_what_a_newer_bundle_has_is_forgotten(run: Run, server: EmbeddedStore, bundle: Path) -> None:
    ItemStore(server.url).add({b"item-5": {}, b"still new": {}})
    assert run("forget", "--in", bundle) == "1 items forgotten"
    assert [*_listed(run)["added"]] == ["still new"]


def test_no_items_are_no_command(run: Run) -> None:
    assert "no items: name some" in run("remove")
