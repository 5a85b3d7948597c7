from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shortlist.config import DataConfig
from shortlist.data.dataset import TABLES, Dataset, load_dataset
from shortlist.data.validate import REJECTED_SCHEMA
from shortlist.errors import DataError
from tests.data.small import interactions, random_dataset

ROWS = [("b", "x", 20, "rating", 4.0), ("a", "y", 10, "rating", None), ("b", "y", 10, "click", 1.0)]


def test_items_are_those_of_the_table_then_those_of_the_interactions() -> None:
    dataset = Dataset.assemble(interactions(ROWS), pl.DataFrame({"item_id": ["z", "y"]}))
    assert dataset.items["item_id"].to_list() == ["z", "y", "x"]
    assert dataset.users["user_id"].to_list() == ["b", "a"]


def test_items_that_only_interactions_know_have_no_attributes() -> None:
    items = pl.DataFrame({"item_id": ["y"], "colour": ["red"]})
    dataset = Dataset.assemble(interactions(ROWS), items, item_attributes={"colour": "category"})
    assert dataset.items["colour"].to_list() == ["red", None]


def test_the_log_encodes_users_items_events_and_values() -> None:
    log = Dataset.assemble(interactions(ROWS)).log()
    assert [log.item_ids[row] for row in log.history(0)] == ["y", "x"]
    assert [log.event_names[code] for code in log.events] == ["click", "rating", "rating"]
    assert log.values[:2].tolist() == [1.0, 4.0]
    assert str(log.values[2]) == "nan"


def test_a_data_set_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    dataset = random_dataset()
    dataset.save(tmp_path)
    loaded = Dataset.load(tmp_path)
    for name in TABLES:
        assert_frame_equal(getattr(loaded, name), getattr(dataset, name))
    assert loaded.item_attributes == dataset.item_attributes
    assert loaded.title == "title"


def test_rejected_rows_are_written_beside_the_data_set(tmp_path: Path) -> None:
    rejected = pl.DataFrame([("f.csv", 3, "time", "soon", "time is not a time")], REJECTED_SCHEMA, orient="row")
    Dataset.assemble(interactions(ROWS), rejected=rejected).save(tmp_path)
    assert pl.read_parquet(tmp_path / "rejected.parquet").row(0) == ("f.csv", 3, "time", "soon", "time is not a time")


def test_the_fingerprint_is_that_of_the_content() -> None:
    assert random_dataset(seed=1).fingerprint() == random_dataset(seed=1).fingerprint()


def test_one_changed_cell_changes_the_fingerprint() -> None:
    changed = [(*ROWS[0][:4], 5.0), *ROWS[1:]]
    assert Dataset.assemble(interactions(ROWS)).fingerprint() != Dataset.assemble(interactions(changed)).fingerprint()


def test_the_fingerprint_tells_where_lists_end() -> None:
    lists = [[["a"], ["b", "c"]], [["a", "b"], ["c"]]]
    prints = {
        Dataset.assemble(
            interactions(ROWS), pl.DataFrame({"item_id": ["x", "y"], "tags": tags}), item_attributes={"tags": "multi"}
        ).fingerprint()
        for tags in lists
    }
    assert len(prints) == 2


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    dataset = random_dataset()
    dataset.save(tmp_path)
    dataset.interactions.head(10).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="fingerprint"):
        Dataset.load(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    random_dataset().save(tmp_path)
    document = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(document | {"format_version": 99}))
    with pytest.raises(DataError, match="format_version = 99"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize(
    "document",
    [[], {}, {"format_version": "x"}, {"item_attributes": 3}, {"item_attributes": {"a": "zzz"}}, {"other": 1}],
)
def test_a_description_of_the_wrong_types_is_refused(tmp_path: Path, document: object) -> None:
    random_dataset().save(tmp_path)
    if isinstance(document, dict) and document:
        document = json.loads((tmp_path / "dataset.json").read_text()) | document
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"saved data set"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "items.parquet"])
def test_an_incomplete_folder_is_refused(tmp_path: Path, name: str) -> None:
    random_dataset().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"saved data set"):
        Dataset.load(tmp_path)


def test_attributes_must_be_of_their_kind() -> None:
    items = pl.DataFrame({"item_id": ["y"], "year": ["1999"]})
    with pytest.raises(DataError, match="items: columns are"):
        Dataset.assemble(interactions(ROWS), items, item_attributes={"year": "numeric"})


def test_times_in_some_rows_only_are_refused() -> None:
    with pytest.raises(DataError, match="null in some rows only"):
        Dataset.assemble(interactions([*ROWS, ("a", "x", None, "rating", 1.0)]))


def test_an_item_without_title_shows_its_id() -> None:
    items = pl.DataFrame({"item_id": ["x"], "title": ["Alien"]})
    dataset = Dataset.assemble(interactions(ROWS), items, item_attributes={"title": "text"}, title="title")
    assert dataset.titles() == ["Alien", "y"]


def test_a_source_without_its_path_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.path is empty"):
        load_dataset(DataConfig(source="movielens"))


def test_the_configured_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,item_id\na,x\na,y\n")
    config = DataConfig(source="table", path=tmp_path / "log.csv", columns={"user_id": "who"})
    assert load_dataset(config).users["user_id"].to_list() == ["a"]
