"""RecBole's atomic files: tab-separated `.inter`, `.item` and `.user` with a header of `name:type` fields.

The types decide how an attribute is read (token: category, token_seq: several values or words, float: number,
float_seq: one numeric attribute for each place). Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from shortlist.data.clean import Attribute, clean_entities, clean_interactions
from shortlist.data.dataset import Dataset
from shortlist.data.read import LINE, SURPLUS, read_csv, require_columns
from shortlist.data.validate import no_rejections
from shortlist.errors import DataError

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
MULTI_LIMIT = 500  # a token_seq field with more different tokens is read as text
SEQUENCE_LIMIT = 256  # places of a float_seq field that become attributes


def load(path: Path, *, max_rejected: float = 0.05) -> Dataset:
    """Load the atomic files of a folder, or those that lie beside a given `.inter` file. `.item`, `.user` optional."""
    inter = find_inter(path)
    interactions, rejected = read_interactions(inter, max_rejected=max_rejected)
    items, item_attributes, bad_items = _read_entities(inter.with_suffix(".item"), "item_id", max_rejected)
    users, user_attributes, bad_users = _read_entities(inter.with_suffix(".user"), "user_id", max_rejected)
    return Dataset.assemble(
        interactions,
        items,
        users,
        item_attributes={name: attribute.kind for name, attribute in item_attributes.items()},
        user_attributes={name: attribute.kind for name, attribute in user_attributes.items()},
        title=next((name for name, a in item_attributes.items() if _is_title(name) and a.kind == "text"), None),
        rejected=pl.concat([rejected, bad_items, bad_users]),
    )


def find_inter(path: Path) -> Path:
    """The `.inter` file that `path` is, or the only one in the folder it is."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path}: expected one .inter file in this folder, found: {names}; set data.path to the file")
    return found[0]


def read_atomic(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read one file as raw text columns under their plain names, and the type of each field."""
    raw = read_csv(path, separator="\t", quoted=False)
    types: dict[str, str] = {}
    for field in raw.columns:
        if field in (LINE, SURPLUS):
            continue
        name, _, kind = field.rpartition(":")
        if not name or kind not in FIELD_TYPES:
            allowed = ", ".join(FIELD_TYPES)
            raise DataError(f"{path}: line 1: field {field!r} is not `name:type`; allowed types: {allowed}")
        types[name] = kind
    return raw.rename({f"{name}:{kind}": name for name, kind in types.items()}), types


def read_interactions(path: Path, *, max_rejected: float, exact: bool = False) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The interactions and rejected rows of an `.inter` file; a `rating` becomes the event's value."""
    raw, types = read_atomic(path)
    require_columns(raw, ["user_id", "item_id"], path, "RecBole names them user_id:token and item_id:token.")
    _require_tokens(types, ["user_id", "item_id"], path)
    columns = {"user_id": "user_id", "item_id": "item_id"}
    columns |= {ours: theirs for ours, theirs in (("timestamp", "timestamp"), ("value", "rating")) if theirs in types}
    event = "rating" if "rating" in types else "interaction"
    return clean_interactions(raw, path, columns, max_rejected=max_rejected, default_event=event, exact=exact)


def read_entities(
    path: Path, id_name: str, attributes: Mapping[str, Attribute], *, max_rejected: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Chosen attributes of an `.item` or `.user` file, and its rejected rows."""
    raw, types = read_atomic(path)
    require_columns(raw, [id_name, *(attribute.column for attribute in attributes.values())], path)
    _require_tokens(types, [id_name], path)
    return clean_entities(raw, path, id_name, id_name, attributes, max_rejected=max_rejected)


def _read_entities(
    path: Path, id_name: str, max_rejected: float
) -> tuple[pl.DataFrame | None, dict[str, Attribute], pl.DataFrame]:
    """All attributes of a file that may be absent, read as its field types say."""
    if not path.is_file():
        return None, {}, no_rejections()
    raw, types = read_atomic(path)
    require_columns(raw, [id_name], path)
    _require_tokens(types, [id_name], path)
    attributes: dict[str, Attribute] = {}
    for name, kind in types.items():
        if name == id_name:
            continue
        if kind == "float_seq":
            raw, places = _spread(raw, name)
            attributes |= places
        else:
            attributes[name] = _attribute(raw, name, kind)
    table, rejected = clean_entities(raw, path, id_name, id_name, attributes, max_rejected=max_rejected)
    return table, attributes, rejected


def _attribute(raw: pl.DataFrame, name: str, kind: str) -> Attribute:
    if kind == "float":
        return Attribute(name, "numeric")
    if _is_title(name):
        return Attribute(name, "text")
    if kind == "token":
        return Attribute(name, "category")
    different = raw[name].drop_nulls().str.split(" ").explode(empty_as_null=False).n_unique()
    return Attribute(name, "multi", " ") if different <= MULTI_LIMIT else Attribute(name, "text")


def _is_title(name: str) -> bool:
    return "title" in name.lower() or name.lower() in {"name", "item_name"}


def _spread(raw: pl.DataFrame, name: str) -> tuple[pl.DataFrame, dict[str, Attribute]]:
    """One column for each place of a float_seq field."""
    places = raw[name].str.split(" ")
    longest = places.list.len().max()
    count = min(longest if isinstance(longest, int) else 0, SEQUENCE_LIMIT)
    columns = [places.list.get(place, null_on_oob=True).alias(f"{name}_{place}") for place in range(count)]
    return raw.with_columns(columns), {column.name: Attribute(column.name, "numeric") for column in columns}


def _require_tokens(types: Mapping[str, str], names: list[str], path: Path) -> None:
    for name in names:
        if types[name] != "token":
            raise DataError(
                f"{path}: line 1: field {name}:{types[name]} is of the wrong type; ids must be {name}:token"
            )
