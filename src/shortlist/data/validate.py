"""Which rows of raw data are acceptable: vectorised checks that keep the bad rows with file, line, column and reason.

A loader reads a file (`shortlist.data.read`), states its checks here, and gets two frames back: the good rows and the
rejected ones. Nothing is dropped without a reason; too large a share of rejected rows is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shortlist.data.read import LINE, SURPLUS
from shortlist.errors import DataError

REJECTED_SCHEMA = {"file": pl.String, "line": pl.Int64, "column": pl.String, "value": pl.String, "reason": pl.String}
MISSING_MARKS = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "\\N")
LATEST_SECOND = 4_102_444_800  # the year 2100
TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Check:
    """Rows where `bad` is true are rejected for `reason`, showing the value of `column`."""

    column: str
    bad: pl.Expr
    reason: str


def no_rejections() -> pl.DataFrame:
    """An empty frame of rejected rows."""
    return pl.DataFrame(schema=REJECTED_SCHEMA)


def apply_checks(frame: pl.DataFrame, checks: Sequence[Check], path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split `frame` (with LINE) into the rows that pass every check, and the others with their first reason."""
    if SURPLUS in frame.columns:
        checks = [Check(SURPLUS, pl.col(SURPLUS).is_not_null(), "more fields than the header has"), *checks]
    if not checks:
        return frame, no_rejections()
    failed = pl.coalesce(pl.when(check.bad).then(pl.lit(number)) for number, check in enumerate(checks))
    marked = frame.with_columns(failed.alias("__failed__"))
    parts = [no_rejections()]
    for number, check in enumerate(checks):
        rows = marked.filter(pl.col("__failed__") == number)
        parts.append(rejections(rows, check.column, check.reason, path))
    return marked.filter(pl.col("__failed__").is_null()).drop("__failed__"), pl.concat(parts).sort("line")


def rejections(rows: pl.DataFrame, column: str, reason: str, path: Path) -> pl.DataFrame:
    """Describe `rows` (with LINE) as rejected because of `column`."""
    shown = pl.col(column).cast(pl.String, strict=False) if _printable(rows, column) else pl.lit(None, pl.String)
    return rows.select(
        pl.lit(path.name).alias("file"),
        pl.col(LINE).alias("line"),
        pl.lit("(surplus)" if column == SURPLUS else column).alias("column"),
        shown.alias("value"),
        pl.lit(reason).alias("reason"),
    )


def _printable(rows: pl.DataFrame, column: str) -> bool:
    return column in rows.columns and not rows.schema[column].is_nested()


def enforce_limit(rejected: pl.DataFrame, total: int, max_rejected: float, path: Path) -> None:
    """Raise DataError when all of `total` rows, or more than the share `max_rejected` of them, are rejected."""
    share = len(rejected) / max(total, 1)
    if not len(rejected) or (share <= max_rejected and len(rejected) < total):
        return
    remedy = "Mend the file, or raise data.max_rejected (or --max-rejected)" if max_rejected else "Mend the file"
    counts = ", ".join(f"{count} × {reason!r}" for reason, count in count_reasons(rejected).items())
    first = rejected.row(0, named=True)
    raise DataError(
        f"{path}: {len(rejected)} of {total} rows ({share:.1%}) are rejected, {max_rejected:.1%} allowed: {counts}; "
        f"first: line {first['line']}, column {first['column']!r}, value {first['value']!r}. "
        f"{remedy}"
    )


def count_reasons(rejected: pl.DataFrame) -> dict[str, int]:
    """Number of rejected rows by reason, most frequent first."""
    counts = rejected.group_by("reason").len().sort(["len", "reason"], descending=[True, False])
    return dict(counts.iter_rows())


def require_id_type(frame: pl.DataFrame, column: str, path: Path) -> None:
    """Raise DataError unless `column` holds text or integers; a typed file (Parquet) may hold anything."""
    dtype = frame.schema[column]
    if dtype.is_integer() or isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return
    line, value = frame.select(LINE, column).row(0)
    raise DataError(
        f"{path}: row {line}: column {column!r} holds {value!r} of type {dtype}; ids must be text or integers"
    )


def require_times(frame: pl.DataFrame, column: str, path: Path) -> None:
    """Raise DataError if `column` of a typed file holds times of day or durations, which name no moment."""
    dtype = frame.schema[column]
    if dtype == pl.Time or dtype == pl.Duration:
        raise DataError(
            f"{path}: row 1: column {column!r} is of type {dtype}; dates, dates with times, numbers or text are needed"
        )


def require_flat(frame: pl.DataFrame, column: str, path: Path) -> None:
    """Raise DataError if `column` of a typed file holds lists, records or bytes where single values are needed."""
    dtype = frame.schema[column]
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"{path}: row 1: column {column!r} is of type {dtype}; single numbers, times or text are needed"
        )


def id_checks(column: str, *, integer: bool = False) -> list[Check]:
    """An id is present, is no marker of a missing value, and where the format says so is an integer."""
    text = pl.col(column).cast(pl.String).str.strip_chars()
    checks = [Check(column, text.is_null() | text.is_in(list(MISSING_MARKS)), f"{column} is empty")]
    if integer:
        checks.append(Check(column, ~text.str.contains(r"^[+-]?\d+$"), f"{column} is not an integer"))
    return checks


def number_checks(column: str, *, required: bool = False) -> list[Check]:
    """A number parses and is finite; empty cells are missing values unless `required`."""
    raw, number = pl.col(column), parse_number(column)
    checks = [Check(column, number.is_nan(), f"{column} is NaN")]
    if required:
        checks.append(Check(column, raw.is_null(), f"{column} is empty"))
    return [
        *checks,
        Check(column, raw.is_not_null() & number.is_null(), f"{column} is not a number"),
        Check(column, number.is_infinite(), f"{column} is infinite"),
    ]


def parse_number(column: str) -> pl.Expr:
    """Float64; null where the cell is no number."""
    return pl.col(column).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def time_checks(column: str, parsed: str) -> list[Check]:
    """`parsed` (from `parse_times`) exists and lies between 1970 and 2100."""
    seconds = pl.col(parsed) / MICROSECONDS
    return [
        Check(column, pl.col(column).is_null(), f"{column} is empty"),
        Check(column, pl.col(parsed).is_null(), f"{column} is not a time"),
        Check(column, (seconds < 0) | (seconds >= LATEST_SECOND), f"{column} is outside 1970..2100"),
    ]


def parse_times(column: pl.Series) -> pl.Series:
    """Microseconds since 1970 UTC: from a date type, from numbers (s, ms, µs or ns, by their size), or ISO 8601 text.

    Null where a cell is none of these. Times without an offset are taken as UTC.
    """
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us", "UTC") if _zoned(column) else pl.Datetime("us")).dt.epoch("us")
    text = column.cast(pl.String).str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    numbers = numbers.set(~numbers.is_finite().fill_null(value=False), None)
    return (
        (numbers * _microseconds_per_unit(numbers))
        .clip(-9e18, 9e18)
        .cast(pl.Int64)
        .zip_with(numbers.is_not_null(), _parse_iso(text))
    )


def _zoned(column: pl.Series) -> bool:
    return isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None


def _microseconds_per_unit(numbers: pl.Series) -> float:
    """The unit of a whole column, by its median: seconds reach 1e11 in the year 5138."""
    median = numbers.abs().median()
    size = float(median) if isinstance(median, (int, float)) else 0.0
    for limit, factor in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0)):
        if size < limit:
            return factor
    return 1e-3


def _parse_iso(text: pl.Series) -> pl.Series:
    normal = text.str.replace(" ", "T", literal=True)
    if not normal.str.contains("-", literal=True).any():
        return pl.Series(text.name, [None] * len(text), dtype=pl.Int64)
    parsed = [normal.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us") for form in TIME_FORMATS]
    return pl.select(pl.coalesce(*[pl.lit(times) for times in parsed])).to_series()
