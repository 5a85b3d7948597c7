from __future__ import annotations

from datetime import datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest

from shortlist.data import table
from shortlist.errors import ConfigError, DataError

CSV = """customer,sku,when,action,stars
ann,s1,2024-01-01T10:00:00Z,buy,4
bob,s2,2024-01-01T11:00:00Z,view,
ann,s2,2024-01-01T09:00:00Z,buy,5
"""
COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "when", "event": "action", "value": "stars"}


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_columns_are_mapped_from_a_csv(tmp_path: Path) -> None:
    assert table.load(write(tmp_path / "log.csv", CSV), columns=COLUMNS).interactions.rows() == [
        ("ann", "s1", 1_704_103_200, "buy", 4.0),
        ("bob", "s2", 1_704_106_800, "view", None),
        ("ann", "s2", 1_704_099_600, "buy", 5.0),
    ]


def test_columns_that_are_not_mapped_keep_our_names_and_may_be_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp\n1,2,1000000000\n")
    assert table.load(path).interactions.row(0) == ("1", "2", 1_000_000_000, "interaction", None)


def test_parquet_keeps_integer_ids_and_typed_times(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [7], "item_id": [8], "timestamp": [datetime(2024, 1, 1)], "value": [0.5]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert table.load(tmp_path / "log.parquet").interactions.row(0) == ("7", "8", 1_704_067_200, "interaction", 0.5)


def test_milliseconds_decide_the_order_within_a_second(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp\na,late,1700000000900\na,early,1700000000100\n")
    log = table.load(path).log()
    assert [log.item_ids[row] for row in log.history(0)] == ["early", "late"]


def test_an_event_without_a_name_is_an_interaction(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,event\na,x,\na,y,buy\n")
    assert table.load(path).interactions["event"].to_list() == ["interaction", "buy"]


def test_attributes_are_read_by_their_kind(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", CSV)
    items = write(tmp_path / "items.csv", "sku,name,price,tags,brand\ns1,Blue shirt,9.5,a|b,acme\ns2,,,,\n")
    users = tmp_path / "users.parquet"
    pl.DataFrame({"customer": ["bob"], "likes": [["x", "y"]], "age": [30]}).write_parquet(users)
    dataset = table.load(
        log,
        columns=COLUMNS,
        items=items,
        users=users,
        item_attributes={"name": "text", "price": "numeric", "tags": "multi", "brand": "category"},
        user_attributes={"likes": "multi", "age": "numeric"},
    )
    assert dataset.items.rows() == [("s1", "Blue shirt", 9.5, ["a", "b"], "acme"), ("s2", None, None, None, None)]
    assert dataset.users.rows() == [("bob", ["x", "y"], 30.0), ("ann", None, None)]
    assert dataset.title == "name"


def test_context_columns_go_with_the_interactions(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,device\na,x,tv\na,y,phone\n")
    log = table.load(path, context_attributes={"device": "category"}).log()
    assert log.context["device"].tolist() == ["tv", "phone"]


def test_a_mapped_column_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'time' is missing; the file has: customer, .* data\.columns"):
        table.load(write(tmp_path / "log.csv", CSV), columns=COLUMNS | {"timestamp": "time"})


def test_an_id_column_that_is_not_mapped_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'user_id' is missing"):
        table.load(write(tmp_path / "log.csv", CSV))


def test_an_unknown_name_in_the_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'rating' is unknown; allowed: user_id, item_id"):
        table.load(write(tmp_path / "log.csv", CSV), columns=COLUMNS | {"rating": "stars"})


def test_attributes_without_their_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.item_attributes is given without data\.item_path"):
        table.load(write(tmp_path / "log.csv", CSV), columns=COLUMNS, item_attributes={"x": "text"})


@pytest.mark.parametrize("ids", [[1.5, 2.0], [True, False], [[1], [2]], [datetime(2024, 1, 1)] * 2])
def test_ids_of_the_wrong_type_are_refused_with_row_and_value(tmp_path: Path, ids: list[object]) -> None:
    pl.DataFrame({"user_id": ids, "item_id": [1, 2]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"row 1: column 'user_id' holds .*; ids must be text or integers"):
        table.load(tmp_path / "log.parquet")


@pytest.mark.parametrize("column", ["timestamp", "value"])
def test_lists_where_single_values_belong_are_refused(tmp_path: Path, column: str) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [2], column: [[1, 2]]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=rf"column '{column}' is of type List"):
        table.load(tmp_path / "log.parquet")


def test_an_attribute_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    pl.DataFrame({"sku": ["s1"], "price": [[1.0]]}).write_parquet(items)
    log = write(tmp_path / "log.csv", CSV)
    with pytest.raises(DataError, match="column 'price' is of type List"):
        table.load(log, columns=COLUMNS, items=items, item_attributes={"price": "numeric"})


def test_null_and_nan_of_a_parquet_file_are_rejected(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"user_id": ["a", None, "a", " "], "item_id": [1, 2, 3, 4], "value": [1.0, 1.0, float("nan"), 1]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    rejected = table.load(tmp_path / "log.parquet", max_rejected=0.8).rejected
    assert rejected.select("line", "reason").rows() == [
        (2, "user_id is empty"),
        (3, "value is NaN"),
        (4, "user_id is empty"),
    ]


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        (",s1,2024-01-01,buy,1", "customer", None, "customer is empty"),
        ("ann,NULL,2024-01-01,buy,1", "sku", "NULL", "sku is empty"),
        ("ann,s1,last week,buy,1", "when", "last week", "when is not a time"),
        ("ann,s1,1912-01-01,buy,1", "when", "1912-01-01", "when is outside 1970..2100"),
        ("ann,s1,2024-01-01,buy,many", "stars", "many", "stars is not a number"),
        ("ann,s1,2024-01-01,buy,nan", "stars", "nan", "stars is NaN"),
        ("ann,s1,2024-01-01,buy,-1e39", "stars", "-1e39", "stars is beyond ±1e+30"),
        ("ann,s1,2024-01-01,buy,1,2", "(surplus)", "2", "more fields than the header has"),
        ("ann", "sku", None, "sku is empty"),
    ],
)
def test_a_bad_row_is_rejected_with_line_column_value_and_reason(
    tmp_path: Path, row: str, column: str, value: str | None, reason: str
) -> None:
    path = write(tmp_path / "log.csv", f"{CSV}{row}\n")
    rejected = table.load(path, columns=COLUMNS, max_rejected=0.5).rejected
    assert rejected.rows() == [("log.csv", 5, column, value, reason)]


def test_a_table_of_bad_rows_fails_with_its_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", CSV + "ann,s1,soon,buy,1\nann,s1,later,buy,1\n,s1,2024-01-01,buy,1\n")
    with pytest.raises(DataError, match=r"2 × 'when is not a time', 1 × 'customer is empty'; first: line 5"):
        table.load(path, columns=COLUMNS)


def test_an_attribute_column_that_is_missing_is_named(tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", "sku,price\ns1,2\n")
    with pytest.raises(DataError, match=r"items\.csv: line 1: column 'brand' is missing"):
        table.load(
            write(tmp_path / "log.csv", CSV), columns=COLUMNS, items=items, item_attributes={"brand": "category"}
        )


@pytest.mark.parametrize("moment", [time(12), timedelta(hours=1)])
def test_times_that_name_no_moment_are_refused(tmp_path: Path, moment: object) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [moment]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"column 'timestamp' is of type .*; dates,"):
        table.load(tmp_path / "log.parquet")


def test_one_column_cannot_play_two_parts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="user_id and item_id are both 'sku'"):
        table.load(write(tmp_path / "log.csv", CSV), columns=COLUMNS | {"user_id": "sku"})
