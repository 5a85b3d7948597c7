"""Items of one value of an attribute form a group; attributes that cannot group are refused by name."""

import polars as pl
import pytest

from shortlist.data.dataset import INTERACTION_SCHEMA, Dataset
from shortlist.errors import ConfigError, DataError
from shortlist.training.groups import item_groups


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    items = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "maker": ["Ann", None, "Bob", "Ann"],
            "year": [1990.0, 1991.0, float("nan"), 1990.0],
            "genres": [["drama"], ["drama", "crime"], [], None],
        },
        schema_overrides={"genres": pl.List(pl.String)},
    )
    kinds = {"maker": "category", "year": "numeric", "genres": "multi"}
    return Dataset.assemble(pl.DataFrame(schema=INTERACTION_SCHEMA), items, item_attributes=kinds)


@pytest.mark.parametrize(("column", "groups"), [("maker", [0, -1, 1, 0]), ("year", [0, 1, -1, 0])])
def test_equal_values_form_a_group_and_missing_ones_none(dataset: Dataset, column: str, groups: list[int]) -> None:
    found = item_groups(dataset, column)
    assert found is not None
    assert found.tolist() == groups


def test_without_a_column_there_are_no_groups(dataset: Dataset) -> None:
    assert item_groups(dataset, None) is None


def test_an_attribute_that_items_do_not_have_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"cascade\.group_by = 'creator' is no item attribute; allowed: maker, "):
        item_groups(dataset, "creator")


def test_an_attribute_of_several_values_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"cascade\.group_by = 'genres': items have lists there; one value an item"):
        item_groups(dataset, "genres")
