"""Which group each item belongs to, where slates may hold only so many of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from shortlist.data.dataset import Dataset
from shortlist.errors import ConfigError, DataError
from shortlist.types import Int32


def item_groups(dataset: Dataset, column: str | None) -> Int32 | None:
    """Numbers of the values of an item attribute, int32 [items], -1 where there is none; None without a `column`.

    Raises ConfigError when the item table has no such column, DataError when an item may have several values there.
    """
    if column is None:
        return None
    if column not in dataset.items.columns:
        allowed = ", ".join(c for c in dataset.items.columns if c != "item_id") or "none: there are no item attributes"
        raise ConfigError(f"cascade.group_by = {column!r} is no item attribute; allowed: {allowed}")
    values = dataset.items[column]
    if values.dtype == pl.List:
        raise DataError(f"cascade.group_by = {column!r}: items have lists there; one value an item is allowed")
    numbers = {value: number for number, value in enumerate(group_values(values))}
    return np.array([numbers.get(value, -1) for value in values], np.int32)


def group_values(column: Iterable[Any]) -> list[Any]:
    """The value that each group stands for, in the order of their numbers; NaN is none."""
    return [value for value in dict.fromkeys(column) if value is not None and value == value]
