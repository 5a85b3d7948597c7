"""Item tables become attributes that predicates may ask about; those that cannot be asked are refused by name."""

import numpy as np
import polars as pl
import pytest

from shortlist import bitmap
from shortlist.attributes import Attribute, Numbers, Values
from shortlist.errors import ConfigError
from shortlist.training.attributes import item_attributes

KINDS = {"maker": "category", "genres": "multi", "year": "numeric", "title": "text"}
ITEMS = pl.DataFrame(
    {
        "maker": ["Ann", None, "Bob", "Ann"],
        "genres": [["drama", "crime"], ["drama", "drama"], [], None],
        "year": [1990.0, None, float("nan"), 0.1],
        "title": ["a", "b", "c", "d"],
    },
    schema_overrides={"genres": pl.List(pl.String)},
)


@pytest.fixture(scope="module")
def attributes() -> dict[str, Attribute]:
    return item_attributes(ITEMS, KINDS, ("maker", "genres", "year"))


def _rows(bits: np.ndarray) -> list[int]:
    return bitmap.rows_of(bits, 4).tolist()


@pytest.mark.parametrize(
    ("name", "value", "rows"), [("maker", b"Ann", [0, 3]), ("genres", b"drama", [0, 1]), ("genres", b"crime", [0])]
)
def test_items_are_found_by_value(attributes: dict[str, Attribute], name: str, value: bytes, rows: list[int]) -> None:
    column = attributes[name]
    assert isinstance(column, Values)
    assert _rows(column.having(column.names.rows([value]).tolist())) == rows


@pytest.mark.parametrize(("name", "rows"), [("maker", [0, 2, 3]), ("genres", [0, 1]), ("year", [0, 3])])
def test_items_without_a_value_are_known(attributes: dict[str, Attribute], name: str, rows: list[int]) -> None:
    assert _rows(attributes[name].present) == rows


def test_numbers_stay_what_they_are(attributes: dict[str, Attribute]) -> None:
    year = attributes["year"]
    assert isinstance(year, Numbers)
    assert year.column.dtype == np.float64
    assert _rows(year.having([0.1])) == [3]
    assert Numbers.build(np.array([1990.0, np.nan])).column.dtype == np.float32


@pytest.mark.parametrize(("name", "why"), [("colour", "no item attribute"), ("title", "of kind text")])
def test_what_cannot_be_asked_is_refused(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"cascade\.eligibility names '{name}', .* {why}; allowed: maker, genres, y"):
        item_attributes(ITEMS, KINDS, (name,))


def test_an_attribute_takes_at_most_four_bytes_a_value_of_an_item_and_a_flag_far_less() -> None:
    items, rng = 64_000, np.random.default_rng(0)
    rows = np.arange(items)
    many = Values.build(items, rows, rng.zipf(1.3, items) % 5000, [str(i) for i in range(5000)])
    flag = Values.build(items, rows, rng.integers(0, 2, items), ["false", "true"])
    assert many.planes.nbytes + many.rows.nbytes <= 4 * items
    assert flag.planes.nbytes + flag.rows.nbytes == items // 4
