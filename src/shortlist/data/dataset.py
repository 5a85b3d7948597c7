"""A data set as tables: interactions, items and users, with the kind of each attribute.

Loaders fill it from files, `Dataset.log` encodes it for training, `shortlist.data.features` reads its attributes. On
disk it is Parquet and JSON, with the rejected rows of its sources beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.config import AttributeKind, DataConfig
from shortlist.data.log import InteractionLog
from shortlist.data.validate import no_rejections
from shortlist.errors import DataError

FORMAT_VERSION = 1
INTERACTION_SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,  # seconds since 1970 UTC; null in every row, or in none
    "event": pl.String,
    "value": pl.Float32,  # null where missing
}
KIND_TYPES: Mapping[str, pl.DataType] = {
    "category": pl.String(),
    "multi": pl.List(pl.String()),
    "text": pl.String(),
    "numeric": pl.Float64(),
    "identifier": pl.String(),
}
TABLES = ("interactions", "items", "users", "rejected")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions in file order, and one row for every item and every user that occurs anywhere."""

    interactions: pl.DataFrame  # INTERACTION_SCHEMA, then the context attributes
    items: pl.DataFrame  # item_id, then the item attributes
    users: pl.DataFrame  # user_id, then the user attributes
    item_attributes: dict[str, AttributeKind] = field(default_factory=dict)
    user_attributes: dict[str, AttributeKind] = field(default_factory=dict)
    title: str | None = None  # the item attribute to show to people
    context_attributes: dict[str, AttributeKind] = field(default_factory=dict)
    rejected: pl.DataFrame = field(default_factory=no_rejections)  # file, line, column, value, reason

    @classmethod
    def assemble(
        cls,
        interactions: pl.DataFrame,
        items: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
        **rest: Any,
    ) -> Dataset:
        """Complete the item and user tables with the ids that only interactions know, after those given."""
        return cls(
            interactions=interactions,
            items=_complete(items, interactions["item_id"]),
            users=_complete(users, interactions["user_id"]),
            **rest,
        )

    def __post_init__(self) -> None:
        _require_schema("interactions", self.interactions, INTERACTION_SCHEMA | _types(self.context_attributes))
        _require_schema("items", self.items, {"item_id": pl.String} | _types(self.item_attributes))
        _require_schema("users", self.users, {"user_id": pl.String} | _types(self.user_attributes))
        if self.title is not None and self.title not in self.items.columns:
            raise DataError(f"title = {self.title!r} is no item attribute; allowed: {list(self.item_attributes)}")
        if self.interactions["timestamp"].null_count() not in (0, len(self.interactions)):
            raise DataError("interactions: column 'timestamp' is null in some rows only; give all times or none")

    @property
    def has_timestamps(self) -> bool:
        return len(self.interactions) > 0 and self.interactions["timestamp"].null_count() == 0

    def log(self) -> InteractionLog:
        """Encode the interactions; users and items are numbered as in their tables."""
        events = self.interactions["event"]
        names = events.unique(maintain_order=True).sort()
        return InteractionLog.from_arrays(
            _codes(self.interactions["user_id"], self.users["user_id"], "user_id"),
            _codes(self.interactions["item_id"], self.items["item_id"], "item_id"),
            user_ids=self.users["user_id"].to_list(),
            item_ids=self.items["item_id"].to_list(),
            timestamps=self.interactions["timestamp"].to_numpy() if self.has_timestamps else None,
            events=_codes(events, names, "event"),
            values=self.interactions["value"].fill_null(float("nan")).to_numpy(),
            event_names=names.to_list(),
            context={name: _shared(self.interactions[name]) for name in self.context_attributes},
        )

    def titles(self) -> list[str]:
        """What to show for each item: its title, or its id where it has none, [N]."""
        ids = self.items["item_id"]
        if self.title is None:
            return ids.to_list()
        return self.items.select(pl.coalesce(self.title, "item_id")).to_series().to_list()

    def fingerprint(self) -> str:
        """SHA-256 of schema and content, the same on every machine; rejected rows do not count."""
        digest = hashlib.sha256(json.dumps(self._document(), sort_keys=True).encode())
        for frame in (self.interactions, self.items, self.users):
            for column in frame.iter_columns():
                _hash_column(digest, column)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write Parquet tables and dataset.json into `folder`; rejected.parquet lies beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        document = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint(), **self._document()}
        (folder / "dataset.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote. Raises DataError if it is incomplete, changed, or of a newer format."""
        document = _read_document(folder / "dataset.json")
        fingerprint = document.pop("fingerprint", None)
        try:
            tables: dict[str, Any] = {name: pl.read_parquet(folder / f"{name}.parquet") for name in TABLES}
            dataset = cls(**tables, **document)
        except (OSError, pl.exceptions.PolarsError, TypeError, AttributeError, KeyError) as error:
            raise DataError(f"{folder}: not a saved data set ({error}); save it again") from error
        if dataset.fingerprint() != fingerprint:
            raise DataError(f"{folder}: the tables do not fit the fingerprint in dataset.json; save the data set again")
        return dataset

    def _document(self) -> dict[str, Any]:
        return {
            "item_attributes": self.item_attributes,
            "user_attributes": self.user_attributes,
            "context_attributes": self.context_attributes,
            "title": self.title,
        }


def load_dataset(config: DataConfig) -> Dataset:
    """Read the source that `config` names. Raises DataError naming file, line, column and value of what is wrong."""
    # Loaders build on Dataset, so they are imported here.
    from shortlist.data import ml_100k, movielens, recbole, sequences, table

    if config.source == "ml-100k":
        return ml_100k.load(max_rejected=config.max_rejected)
    if config.path is None:
        raise DataError(f"data.path is empty; source {config.source!r} needs the file or folder to read")
    if config.source == "recbole":
        return recbole.load(config.path, max_rejected=config.max_rejected)
    if config.source == "movielens":
        return movielens.load(config.path, max_rejected=config.max_rejected)
    if config.source == "sequences":
        return sequences.load(config.path, max_rejected=config.max_rejected)
    return table.load(
        config.path,
        columns=config.columns,
        items=config.item_path,
        users=config.user_path,
        item_attributes=config.item_attributes,
        user_attributes=config.user_attributes,
        context_attributes=config.context_attributes,
        max_rejected=config.max_rejected,
    )


def _complete(table: pl.DataFrame | None, ids: pl.Series) -> pl.DataFrame:
    known = pl.DataFrame({ids.name: ids.clear()}) if table is None else table
    unknown = ids.unique(maintain_order=True).to_frame().join(known, on=ids.name, how="anti", maintain_order="left")
    return pl.concat([known, unknown], how="diagonal")


def _types(attributes: Mapping[str, AttributeKind]) -> dict[str, Any]:
    return {name: KIND_TYPES[kind] for name, kind in attributes.items()}


def _require_schema(name: str, frame: pl.DataFrame, schema: Mapping[str, Any]) -> None:
    if dict(frame.schema) != dict(schema):
        raise DataError(f"{name}: columns are {dict(frame.schema)}; expected {dict(schema)}")


def _codes(values: pl.Series, names: pl.Series, column: str) -> Any:
    """Position of each value among `names`, as NumPy."""
    try:
        return values.cast(pl.Enum(names)).to_physical().to_numpy()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"interactions: column {column!r} is empty, or repeated or absent in its table") from error


def _shared(column: pl.Series) -> Any:
    """The column as NumPy; equal texts are one object, not one for each event."""
    if column.dtype != pl.String:
        return column.to_numpy()
    names = column.unique(maintain_order=True)
    codes = column.replace_strict(names, pl.int_range(len(names), eager=True)).to_numpy()
    return names.to_numpy()[codes]


def _hash_column(digest: Any, column: pl.Series) -> None:
    """Feed name, nulls and values of a column; lists are told apart by their lengths."""
    digest.update(f"{column.name}:{column.dtype}:{len(column)};".encode())
    digest.update(column.is_null().to_numpy().tobytes())
    if isinstance(column.dtype, pl.List):
        digest.update(column.list.len().fill_null(0).to_numpy().tobytes())
        column = column.explode(empty_as_null=False)
    if column.dtype == pl.String:
        text = column.fill_null("")
        digest.update(text.str.len_bytes().to_numpy().tobytes())
        digest.update("".join(text.to_list()).encode())
    else:
        digest.update(column.fill_null(0).to_numpy().tobytes())


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not the description of a saved data set ({error})") from error
    version = document.pop("format_version", None) if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{path}: not the description of a saved data set (it names no format_version)")
    if version > FORMAT_VERSION:
        raise DataError(f"{path}: format_version = {version}; this Shortlist reads up to {FORMAT_VERSION}: upgrade it")
    return dict(document)
