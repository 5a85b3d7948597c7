from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.read import LINE
from shortlist.data.validate import Check, apply_checks, count_reasons, enforce_limit, parse_times
from shortlist.errors import DataError

MICRO = 1_000_000
NOON = 1_704_110_400  # 2024-01-01 12:00 UTC
CHECKS = [
    Check("a", pl.col("a").is_null(), "a is empty"),
    Check("b", pl.col("b") < 0, "b is negative"),
]


@pytest.mark.parametrize(
    "text",
    [
        str(NOON),
        f"{NOON}.0",
        "1.7041104e9",
        "2024-01-01T12:00:00Z",
        "2024-01-01T12:00:00",
        "2024-01-01 12:00:00",
        "2024-01-01 12:00:00.000",
        "2024-01-01T12:00",
        "2024-01-01T13:30:00+01:30",
    ],
)
def test_every_form_of_time_is_read(text: str) -> None:
    assert parse_times(pl.Series("t", [text])).to_list() == [NOON * MICRO]


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_the_unit_of_numbers_shows_in_their_size(factor: int, unit: str) -> None:
    assert parse_times(pl.Series(unit, [NOON * factor, (NOON + 60) * factor])).to_list() == [
        NOON * MICRO,
        (NOON + 60) * MICRO,
    ]


def test_typed_times_are_read() -> None:
    assert parse_times(pl.Series("t", [date(2024, 1, 1)])).to_list() == [(NOON - 43_200) * MICRO]
    assert parse_times(pl.Series("t", [datetime(2024, 1, 1, 12)])).to_list() == [NOON * MICRO]


def test_typed_times_with_a_zone_are_read_as_the_same_moment() -> None:
    moment = datetime(2024, 1, 1, 12, tzinfo=UTC).astimezone(timezone(timedelta(hours=3)))
    column = pl.Series("t", [moment]).dt.convert_time_zone("Asia/Tokyo")
    assert parse_times(column).to_list() == [NOON * MICRO]


@pytest.mark.parametrize("text", ["soon", "2024-13-01", "12:00", "nan", "inf", "", None, "2024-01-01T25:00:00"])
def test_what_is_no_time_is_null(text: str | None) -> None:
    assert parse_times(pl.Series("t", [text, str(NOON)], dtype=pl.String)).to_list() == [None, NOON * MICRO]


@given(st.integers(0, 4_102_444_799))
def test_seconds_and_their_iso_form_agree(seconds: int) -> None:
    iso = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert parse_times(pl.Series("t", [iso])).to_list() == [seconds * MICRO]


def test_rows_are_rejected_once_with_the_first_reason() -> None:
    frame = pl.DataFrame({LINE: [2, 3, 4], "a": ["x", None, "y"], "b": [-1, -1, 1]})
    good, rejected = apply_checks(frame, CHECKS, Path("folder/f.csv"))
    assert good["a"].to_list() == ["y"]
    assert rejected.rows() == [("f.csv", 2, "b", "-1", "b is negative"), ("f.csv", 3, "a", None, "a is empty")]


@given(st.lists(st.tuples(st.sampled_from(["x", None]), st.integers(-2, 2)), min_size=1, max_size=20))
def test_every_row_is_either_good_or_rejected(rows: list[tuple[str | None, int]]) -> None:
    frame = pl.DataFrame(rows, {"a": pl.String, "b": pl.Int64}, orient="row").with_row_index(LINE, offset=1)
    good, rejected = apply_checks(frame.cast({LINE: pl.Int64}), CHECKS, Path("f.csv"))
    assert sorted(good[LINE].to_list() + rejected["line"].to_list()) == list(range(1, len(rows) + 1))


def reject(count: int) -> pl.DataFrame:
    frame = pl.DataFrame({LINE: list(range(2, 2 + count)), "a": [None] * count, "b": [1] * count})
    return apply_checks(frame, CHECKS, Path("f.csv"))[1]


def test_too_many_rejected_rows_are_an_error_that_shows_the_first() -> None:
    with pytest.raises(DataError, match=r"2 of 10 rows \(20\.0%\) are rejected, 10\.0% allowed.*line 2, column 'a'"):
        enforce_limit(reject(2), 10, 0.1, Path("f.csv"))


def test_rejected_rows_within_the_limit_are_no_error() -> None:
    enforce_limit(reject(1), 10, 0.1, Path("f.csv"))


def test_losing_every_row_is_an_error_at_any_limit() -> None:
    with pytest.raises(DataError, match="10 of 10 rows"):
        enforce_limit(reject(10), 10, 1.0, Path("f.csv"))


def test_reasons_are_counted_most_frequent_first() -> None:
    frame = pl.DataFrame({LINE: [1, 2, 3], "a": ["x", None, None], "b": [-1, 1, 1]})
    assert count_reasons(apply_checks(frame, CHECKS, Path("f.csv"))[1]) == {"a is empty": 2, "b is negative": 1}
