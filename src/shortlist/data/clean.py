"""From raw columns to the tables of a data set: the steps that every loader shares.

A loader says which file column plays which part; here the cells are parsed, the bad rows set aside and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shortlist.config import AttributeKind
from shortlist.data.read import LINE
from shortlist.data.validate import (
    MICROSECONDS,
    MISSING_MARKS,
    Check,
    apply_checks,
    enforce_limit,
    id_checks,
    number_checks,
    parse_number,
    parse_times,
    rejections,
    require_flat,
    require_id_type,
    require_times,
    time_checks,
)

MICRO = "__microseconds__"
LARGEST_VALUE = 1e30  # values are kept as Float32


@dataclass(frozen=True)
class Attribute:
    """Where an attribute comes from: its column in the file, how to read it, and what separates several values."""

    column: str
    kind: AttributeKind
    separator: str | None = None


def clean_interactions(
    raw: pl.DataFrame,
    path: Path,
    columns: Mapping[str, str],
    *,
    max_rejected: float,
    default_event: str = "interaction",
    integer_ids: bool = False,
    value_required: bool = False,
    context: Mapping[str, Attribute] | None = None,
    exact: bool = False,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make the interactions table from `raw` (with LINE); `columns` maps our names to the file's.

    user_id and item_id are needed; timestamp, event and value are optional. Rows stay in file order, except that a
    finer clock than seconds orders them first, since the table keeps whole seconds. `exact` adds the columns LINE and,
    where there are times, MICRO, and allows any share of bad rows: `raw` may be a part. Returns (interactions,
    rejected).
    """
    user, item = columns["user_id"], columns["item_id"]
    attributes = context or {}
    _require_attribute_types(raw, attributes, path)
    require_id_type(raw, user, path)
    require_id_type(raw, item, path)
    for name in ("timestamp", "event", "value"):
        if name in columns:
            require_flat(raw, columns[name], path)
    checks = [*id_checks(user, integer=integer_ids), *id_checks(item, integer=integer_ids)]
    if time := columns.get("timestamp"):
        require_times(raw, time, path)
        raw = raw.with_columns(parse_times(raw[time]).alias(MICRO))
        checks += time_checks(time, MICRO)
    if value := columns.get("value"):
        checks += number_checks(value, required=value_required)
        checks.append(Check(value, parse_number(value).abs() > LARGEST_VALUE, f"{value} is beyond ±{LARGEST_VALUE:g}"))
    good, rejected = apply_checks(raw, checks, path)
    if not exact:
        enforce_limit(rejected, len(raw), max_rejected, path)
    if time and (good[MICRO] % MICROSECONDS != 0).any():
        good = good.sort(MICRO, maintain_order=True)
    cells = [_parse(good.schema[a.column], a).alias(name) for name, a in attributes.items()]
    further = [name for name in (LINE, MICRO) if exact and name in good.columns]
    return good.select(*_interaction_columns(columns, default_event), *cells, *further), rejected


def _interaction_columns(columns: Mapping[str, str], default_event: str) -> list[pl.Expr]:
    event: pl.Expr = pl.lit(default_event)
    if "event" in columns:
        text = pl.col(columns["event"]).cast(pl.String).str.strip_chars()
        event = pl.when(text.is_in(list(MISSING_MARKS))).then(None).otherwise(text).fill_null(default_event)
    time = pl.col(MICRO) // MICROSECONDS if "timestamp" in columns else pl.lit(None, pl.Int64)
    value = parse_number(columns["value"]).cast(pl.Float32) if "value" in columns else pl.lit(None, pl.Float32)
    return [
        _id(columns["user_id"]).alias("user_id"),
        _id(columns["item_id"]).alias("item_id"),
        time.alias("timestamp"),
        event.alias("event"),
        value.alias("value"),
    ]


def clean_entities(
    raw: pl.DataFrame,
    path: Path,
    id_name: str,
    id_column: str,
    attributes: Mapping[str, Attribute],
    *,
    max_rejected: float,
    integer_ids: bool = False,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make the items or users table: `id_name` and the attributes, one row for each id.

    Rows with a bad or repeated id are rejected. A cell of a numeric attribute that is no number becomes missing and is
    listed among the rejections as well. Returns (table, rejected).
    """
    require_id_type(raw, id_column, path)
    _require_attribute_types(raw, attributes, path)
    repeated = Check(id_column, ~_id(id_column).is_first_distinct(), f"{id_column} is repeated")
    good, rejected = apply_checks(raw, [*id_checks(id_column, integer=integer_ids), repeated], path)
    parts = [rejected]
    for attribute in attributes.values():
        if attribute.kind == "numeric":
            parts.append(_unreadable_numbers(good, attribute.column, path))
    rejected = pl.concat(parts)
    enforce_limit(rejected, len(raw), max_rejected, path)
    cells = [_parse(good.schema[a.column], a).alias(name) for name, a in attributes.items()]
    return good.select(_id(id_column).alias(id_name), *cells), rejected


def _require_attribute_types(raw: pl.DataFrame, attributes: Mapping[str, Attribute], path: Path) -> None:
    """Raise DataError for a typed column that its attribute cannot be read from; lists fit `multi` and `text`."""
    for attribute in attributes.values():
        if attribute.kind not in ("multi", "text") or not isinstance(raw.schema[attribute.column], pl.List):
            require_flat(raw, attribute.column, path)


def _unreadable_numbers(frame: pl.DataFrame, column: str, path: Path) -> pl.DataFrame:
    text, number = pl.col(column).cast(pl.String).str.strip_chars(), parse_number(column)
    unreadable = text.is_not_null() & ~text.is_in(list(MISSING_MARKS)) & ~number.is_finite().fill_null(value=False)
    return rejections(frame.filter(unreadable), column, f"{column} is not a number; read as missing", path)


def _id(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.strip_chars()


def _parse(dtype: pl.DataType, attribute: Attribute) -> pl.Expr:
    """The cells of one attribute in the type of its kind; missing is null."""
    column = pl.col(attribute.column)
    if attribute.kind == "numeric":
        number = parse_number(attribute.column)
        return pl.when(number.is_finite()).then(number)
    if isinstance(dtype, pl.List):
        values = column.cast(pl.List(pl.String)).list.drop_nulls()
        return values if attribute.kind == "multi" else values.list.join(" ")
    text = column.cast(pl.String).str.strip_chars()
    text = pl.when(~text.is_in(list(MISSING_MARKS))).then(text)
    if attribute.kind != "multi":
        return text
    if attribute.separator is None:
        return pl.when(text.is_not_null()).then(pl.concat_list(text))
    tokens = text.str.split(attribute.separator).list.eval(pl.element().str.strip_chars())
    return tokens.list.eval(pl.element().filter(pl.element() != ""))
