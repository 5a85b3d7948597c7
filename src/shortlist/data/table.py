"""Any table of interactions, in CSV, Parquet or JSON lines, with a mapping from our column names to the file's.

Times may be numbers (seconds, milliseconds …), ISO 8601 text, or a Parquet time type; items and users may have tables
of attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from shortlist.config import AttributeKind
from shortlist.data.clean import Attribute, clean_entities, clean_interactions
from shortlist.data.dataset import Dataset
from shortlist.data.parts import read_parts
from shortlist.data.read import read_table, require_columns
from shortlist.data.validate import no_rejections
from shortlist.errors import ConfigError

REQUIRED, OPTIONAL = ("user_id", "item_id"), ("timestamp", "event", "value")
SEPARATORS = ("|", ";", ",")
HINT = "Map it in data.columns (or --column), from our name to the file's."


def load(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    items: Path | None = None,
    users: Path | None = None,
    item_attributes: Mapping[str, AttributeKind] | None = None,
    user_attributes: Mapping[str, AttributeKind] | None = None,
    context_attributes: Mapping[str, AttributeKind] | None = None,
    max_rejected: float = 0.05,
) -> Dataset:
    """Load a table; columns that `columns` does not map keep our names, and the optional ones may be absent.

    `context_attributes` are further columns of the interactions that describe the request (device, locale …).
    """
    raw = read_table(path)
    mapping = _map_columns(raw, path, columns or {})
    context = _attributes(raw, path, context_attributes or {})
    interactions, rejected = clean_interactions(raw, path, mapping, max_rejected=max_rejected, context=context)
    item_table, bad_items = _read_entities(items, "item_id", columns or {}, item_attributes or {}, max_rejected)
    user_table, bad_users = _read_entities(users, "user_id", columns or {}, user_attributes or {}, max_rejected)
    return Dataset.assemble(
        interactions,
        item_table,
        user_table,
        item_attributes=dict(item_attributes or {}),
        user_attributes=dict(user_attributes or {}),
        context_attributes=dict(context_attributes or {}),
        title=_title(item_attributes or {}),
        rejected=pl.concat([rejected, bad_items, bad_users]),
    )


def read_log(
    path: Path, columns: Mapping[str, str], context: Mapping[str, AttributeKind]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    """A table's interactions alone, some at a time: those with LINE and MICRO, the rejected rows, all rows as read."""
    for raw in read_parts(path):
        mapping = _map_columns(raw, path, columns)
        attributes = _attributes(raw, path, context)
        yield *clean_interactions(raw, path, mapping, max_rejected=1.0, context=attributes, exact=True), raw


def read_items(path: Path, kinds: Mapping[str, AttributeKind]) -> pl.DataFrame:
    """A table of items: `item_id`, and those of the attributes `kinds` that it has. Raises DataError for a bad row."""
    found = read_table(path).columns
    given = {name: kind for name, kind in kinds.items() if name in found}
    table, _ = _read_entities(path, "item_id", {}, given, 0.0)
    assert table is not None
    return table


def _map_columns(raw: pl.DataFrame, path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """From our names to those columns of the file that exist; all that are required or mapped must."""
    for name in columns:
        if name not in REQUIRED + OPTIONAL:
            raise ConfigError(f"data.columns: {name!r} is unknown; allowed: {', '.join(REQUIRED + OPTIONAL)}")
    mapping = {name: columns.get(name, name) for name in REQUIRED}
    mapping |= {name: columns.get(name, name) for name in OPTIONAL if name in columns or name in raw.columns}
    require_columns(raw, list(mapping.values()), path, HINT)
    names = {theirs: ours for ours, theirs in mapping.items()}
    for ours, theirs in mapping.items():
        if names[theirs] != ours:
            raise ConfigError(
                f"data.columns: {ours} and {names[theirs]} are both {theirs!r}; map each to its own column"
            )
    return mapping


def _read_entities(
    path: Path | None,
    id_name: str,
    columns: Mapping[str, str],
    kinds: Mapping[str, AttributeKind],
    max_rejected: float,
) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    if path is None:
        if kinds:
            raise ConfigError(f"data.{id_name[:4]}_attributes is given without data.{id_name[:4]}_path; set both")
        return None, no_rejections()
    raw = read_table(path)
    mapped = columns.get(id_name, id_name)
    id_column = mapped if mapped in raw.columns else id_name
    require_columns(raw, [id_column], path, HINT)
    attributes = _attributes(raw, path, kinds)
    return clean_entities(raw, path, id_name, id_column, attributes, max_rejected=max_rejected)


def _attributes(raw: pl.DataFrame, path: Path, kinds: Mapping[str, AttributeKind]) -> dict[str, Attribute]:
    require_columns(raw, list(kinds), path)
    return {
        name: Attribute(name, kind, _separator(raw[name]) if kind == "multi" else None) for name, kind in kinds.items()
    }


def _separator(column: pl.Series) -> str | None:
    """The first of our separators that occurs in a column of text."""
    if column.dtype != pl.String:
        return None
    return next((mark for mark in SEPARATORS if column.str.contains(mark, literal=True).any()), None)


def _title(kinds: Mapping[str, AttributeKind]) -> str | None:
    texts = [name for name, kind in kinds.items() if kind == "text"]
    return "title" if "title" in texts else next(iter(texts), None)
