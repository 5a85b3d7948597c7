"""Small logs and data sets for the tests of `shortlist.data`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from shortlist.data.dataset import INTERACTION_SCHEMA, Dataset
from shortlist.data.log import InteractionLog


def random_log(
    users: int = 30,
    items: int = 20,
    events: int = 400,
    seed: int = 0,
    *,
    timestamps: bool = True,
    span: int = 5_000_000,
) -> InteractionLog:
    """Random interactions; times repeat often when `span` is small."""
    rng = np.random.default_rng(seed)
    return InteractionLog.from_arrays(
        rng.integers(0, users, events),
        rng.integers(0, items, events),
        user_ids=[f"u{user}" for user in range(users)],
        item_ids=[f"i{item}" for item in range(items)],
        timestamps=1_000_000_000 + rng.integers(0, span, events) if timestamps else None,
        values=rng.integers(1, 6, events),
    )


def interactions(rows: Sequence[tuple[str, str, int | None, str, float | None]]) -> pl.DataFrame:
    """A table of (user, item, timestamp, event, value)."""
    return pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")


def random_dataset(seed: int = 0, users: int = 30, items: int = 20, events: int = 400) -> Dataset:
    """Interactions with times and ratings, and attributes of every kind, some of them missing."""
    rng = np.random.default_rng(seed)
    genres, words = ["comedy", "drama", "war"], ["night", "day", "return", "king", "city"]
    item_table = pl.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(items)],
            "title": [" ".join(rng.choice(words, 2)) for _ in range(items)],
            "year": [None if item % 7 == 3 else float(1950 + rng.integers(0, 50)) for item in range(items)],
            "genres": [rng.choice(genres, 1 + item % 2, replace=False).tolist() for item in range(items)],
        },
        schema_overrides={"year": pl.Float64},
    )
    user_table = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(users)],
            "age": [float(rng.integers(15, 70)) for _ in range(users)],
            "gender": [None if user % 5 == 4 else "FM"[user % 2] for user in range(users)],
        }
    )
    table = interactions(
        [
            (f"u{rng.integers(users)}", f"i{rng.integers(items)}", int(time), "rating", float(rng.integers(1, 6)))
            for time in 1_000_000_000 + rng.integers(0, 5_000_000, events)
        ]
    )
    return Dataset.assemble(
        table,
        item_table,
        user_table,
        item_attributes={"title": "text", "year": "numeric", "genres": "multi"},
        user_attributes={"age": "numeric", "gender": "category"},
        title="title",
    )
