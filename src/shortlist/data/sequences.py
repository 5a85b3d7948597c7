"""Text files of item sequences without times: SASRec's `user item` a line in order, S3-Rec's `user item item …` a line.

Which of the two a file is shows in its lines: two fields in nearly all of them, or not. Ids are separated by blanks.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from shortlist.data.clean import clean_interactions
from shortlist.data.dataset import Dataset
from shortlist.data.read import LINE, read_lines
from shortlist.data.validate import Check, apply_checks, enforce_limit

PAIR_SHARE = 0.95  # of lines with two fields, from which a file is of pairs
INTEGER_SHARE = 0.99  # of integer ids, from which another kind of id is a mistake


def load(path: Path, *, max_rejected: float = 0.05) -> Dataset:
    """Load one file of either form; the order of a user's items is the order of the file."""
    raw = read_lines(path).with_columns(pl.col("text").str.extract_all(r"\S+").alias("fields"))
    checks = _pair_checks() if _is_pairs(raw) else _sequence_checks()
    good, malformed = apply_checks(raw, checks, path)
    enforce_limit(malformed, len(raw), max_rejected, path)
    events = good.select(LINE, user=pl.col("fields").list.first(), item=pl.col("fields").list.slice(1))
    events = events.explode("item", empty_as_null=False)
    events, wrong = apply_checks(events, [*_type_checks(events, "user"), *_type_checks(events, "item")], path)
    enforce_limit(wrong, len(events) + len(wrong), max_rejected, path)
    columns = {"user_id": "user", "item_id": "item"}
    interactions, rejected = clean_interactions(events, path, columns, max_rejected=max_rejected)
    return Dataset.assemble(interactions, rejected=pl.concat([malformed, wrong, rejected]))


def _is_pairs(raw: pl.DataFrame) -> bool:
    return int((raw["fields"].list.len() == 2).sum()) >= PAIR_SHARE * len(raw)


def _pair_checks() -> list[Check]:
    return [Check("text", pl.col("fields").list.len() != 2, "not two fields `user item`")]


def _sequence_checks() -> list[Check]:
    user = pl.col("fields").list.first()
    return [
        Check("text", pl.col("fields").list.len() < 2, "a user without items"),
        Check("text", ~user.is_first_distinct(), "the user has a line already"),
    ]


def _type_checks(events: pl.DataFrame, column: str) -> list[Check]:
    """Where practically all ids are integers, the others are of the wrong type."""
    integer = pl.col(column).str.contains(r"^\d+$")
    if int(events.select(integer.sum()).item()) < INTEGER_SHARE * len(events):
        return []
    return [Check(column, ~integer, f"{column} is not an integer, as the others are")]
