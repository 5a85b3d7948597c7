"""MovieLens folders: `ratings.csv` with `movies.csv` and `tags.csv`, or ML-1M's and ML-10M's `::`-separated .dat files.

Ratings become events `rating` with a value. Titles lose their year, which becomes an attribute of its own. Tags carry
times: only those older than most ratings are used, since a later tag would tell of the ratings that are evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shortlist.data.clean import Attribute, clean_entities, clean_interactions
from shortlist.data.dataset import Dataset
from shortlist.data.read import read_csv, require_columns
from shortlist.data.validate import (
    MICROSECONDS,
    apply_checks,
    enforce_limit,
    id_checks,
    no_rejections,
    parse_times,
    time_checks,
)
from shortlist.errors import DataError

TAG_QUANTILE = 0.7  # of the rating times: tags given later are left out; the rolling split trains on the first 72 %
RATING_COLUMNS = ["userId", "movieId", "rating", "timestamp"]
MOVIE_COLUMNS = ["movieId", "title", "genres"]
TAG_COLUMNS = ["userId", "movieId", "tag", "timestamp"]
USER_COLUMNS = ["userId", "gender", "age", "occupation", "zip"]
INTERACTIONS = {"user_id": "userId", "item_id": "movieId", "value": "rating", "timestamp": "timestamp"}
ITEM_ATTRIBUTES = {
    "title": Attribute("title", "text"),
    "year": Attribute("year", "numeric"),
    "genres": Attribute("genres", "multi", "|"),
}
TAG_ATTRIBUTE = {"tags": Attribute("tags", "text")}
USER_ATTRIBUTES = {
    "age": Attribute("age", "category"),  # ML-1M gives brackets, not years
    "gender": Attribute("gender", "category"),
    "occupation": Attribute("occupation", "category"),
}


@dataclass(frozen=True)
class Folder:
    """One MovieLens folder, in either of its two forms."""

    path: Path
    suffix: str  # .csv or .dat

    def has(self, name: str) -> bool:
        return (self.path / f"{name}{self.suffix}").is_file()

    def read(self, name: str, columns: Sequence[str]) -> tuple[pl.DataFrame, Path]:
        """The raw rows of one file with the named columns, and its path."""
        path = self.path / f"{name}{self.suffix}"
        if self.suffix == ".dat":
            return read_csv(path, separator="::", header=columns, quoted=False, encoding="latin-1"), path
        raw = read_csv(path)
        require_columns(raw, columns, path)
        return raw, path


def load(path: Path, *, max_rejected: float = 0.05) -> Dataset:
    """Load a folder that has at least ratings.csv or ratings.dat; movies, tags and users are used where present."""
    folder = _open(path)
    raw, file = folder.read("ratings", RATING_COLUMNS)
    interactions, rejected = clean_interactions(
        raw,
        file,
        INTERACTIONS,
        max_rejected=max_rejected,
        default_event="rating",
        integer_ids=True,
        value_required=True,
    )
    items, item_attributes, bad_items = _read_items(folder, interactions, max_rejected)
    users, bad_users = _read_users(folder, max_rejected)
    return Dataset.assemble(
        interactions,
        items,
        users,
        item_attributes={name: attribute.kind for name, attribute in item_attributes.items()},
        user_attributes={} if users is None else {name: a.kind for name, a in USER_ATTRIBUTES.items()},
        title="title" if items is not None else None,
        rejected=pl.concat([rejected, bad_items, bad_users]),
    )


def _open(path: Path) -> Folder:
    for suffix in (".csv", ".dat"):
        folder = Folder(path, suffix)
        if folder.has("ratings"):
            return folder
    raise DataError(
        f"{path}: neither ratings.csv nor ratings.dat is in this folder; set data.path to a MovieLens folder"
    )


def _read_items(
    folder: Folder, interactions: pl.DataFrame, max_rejected: float
) -> tuple[pl.DataFrame | None, dict[str, Attribute], pl.DataFrame]:
    if not folder.has("movies"):
        return None, {}, no_rejections()
    raw, file = folder.read("movies", MOVIE_COLUMNS)
    attributes, rejected = dict(ITEM_ATTRIBUTES), no_rejections()
    raw = raw.with_columns(
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year"),
        pl.col("title").str.replace(r"\s*\(\d{4}\)\s*$", ""),
        pl.col("genres").replace("(no genres listed)", None),
    )
    if folder.has("tags"):
        tags, rejected = _read_tags(folder, interactions, max_rejected)
        raw = raw.join(tags, on="movieId", how="left", maintain_order="left")
        attributes |= TAG_ATTRIBUTE
    items, bad = clean_entities(
        raw, file, "item_id", "movieId", attributes, max_rejected=max_rejected, integer_ids=True
    )
    return items, attributes, pl.concat([bad, rejected])


def _read_tags(folder: Folder, interactions: pl.DataFrame, max_rejected: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All early tags of each film, joined to one text; and the rejected tag rows."""
    raw, file = folder.read("tags", TAG_COLUMNS)
    raw = raw.with_columns(parse_times(raw["timestamp"]).alias("time"))
    good, rejected = apply_checks(raw, [*id_checks("movieId", integer=True), *time_checks("timestamp", "time")], file)
    enforce_limit(rejected, len(raw), max_rejected, file)
    last = interactions["timestamp"].quantile(TAG_QUANTILE, "lower")
    early = good.filter(pl.col("time") < pl.lit(last) * MICROSECONDS, pl.col("tag").is_not_null())
    return early.group_by("movieId", maintain_order=True).agg(pl.col("tag").str.join(" ").alias("tags")), rejected


def _read_users(folder: Folder, max_rejected: float) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    if not folder.has("users"):
        return None, no_rejections()
    raw, file = folder.read("users", USER_COLUMNS)
    return clean_entities(raw, file, "user_id", "userId", USER_ATTRIBUTES, max_rejected=max_rejected, integer_ids=True)
