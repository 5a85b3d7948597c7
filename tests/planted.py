"""A small log with structure worth learning: people walk around rings of items, from one to a near neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shortlist.config import Config

USERS, LENGTH = 200, 14


def write_walks(path: Path, seed: int = 0) -> Path:
    """Write `user item item …` lines: three rings of 40 items, each person on one of them, a step or two at a time."""
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(USERS):
        ring, place, seen = int(rng.integers(3)), int(rng.integers(40)), []
        for _ in range(LENGTH):
            seen.append(f"item{ring * 40 + place}")
            place = (place + int(rng.choice([1, 1, 1, 2]))) % 40
        lines.append(" ".join([f"user{user}", *seen]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_config(path: Path) -> Config:
    """A configuration that trains on those walks in seconds."""
    return Config.parse(
        {
            "data": {"source": "sequences", "path": str(path)},
            "retriever": {
                "towers": [{"family": "decay", "dim": 16, "epochs": 3, "batch_tokens": 256, "history": 20}],
                "linear": [{"kind": "ease", "regularization": 10}],
            },
            "ranker": {"dim": 8, "epochs": 1, "positions": 4, "history": 20},
            "filter": {"epochs": 2, "hidden": [16]},
            "cascade": {"candidates": 60, "rank_depth": 30, "history": 20, "batch_ms": 60_000},
        }
    )


def table_config(folder: Path, items: Mapping[str, Mapping[str, str | bool]]) -> dict[str, Any]:
    """The same over tables, as plain values: the walks as events, and `items` with attributes that are categories."""
    lines = [line.split() for line in write_walks(folder / "walks.txt").read_text().splitlines()]
    events = [(user, item, place) for user, *walk in lines for place, item in enumerate(walk)]
    pl.DataFrame(events, schema=["user", "item", "time"], orient="row").write_csv(folder / "events.csv")
    pl.DataFrame([{"item": name, **attributes} for name, attributes in items.items()]).write_csv(folder / "items.csv")
    data = {
        "source": "table",
        "path": folder / "events.csv",
        "item_path": folder / "items.csv",
        "columns": {"user_id": "user", "item_id": "item", "timestamp": "time"},
        "item_attributes": dict.fromkeys(next(iter(items.values())), "category"),
    }
    return {**small_config(folder / "events.csv").model_dump(), "data": data}
