"""The item attributes that predicates may ask about, from the item table to what a bundle keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from shortlist.attributes import Attribute, Numbers, Values
from shortlist.errors import ConfigError

ASKABLE = ("category", "multi", "numeric")


def item_attributes(items: pl.DataFrame, kinds: Mapping[str, str], names: Sequence[str]) -> dict[str, Attribute]:
    """The attributes `names` of the item table [N], whose columns are of `kinds`.

    Raises ConfigError for one that the table does not have, or of which nobody can ask whether an item has a value.
    """
    for name in names:
        if kinds.get(name) not in ASKABLE:
            found = f"is of kind {kinds[name]}" if name in kinds else "is no item attribute"
            allowed = ", ".join(n for n, kind in kinds.items() if kind in ASKABLE) or "none: the items have none"
            raise ConfigError(f"cascade.eligibility names {name!r}, which {found}; allowed: {allowed}")
    return {name: _attribute(items[name], kinds[name]) for name in names}


def _attribute(column: pl.Series, kind: str) -> Attribute:
    if kind == "numeric":
        return Numbers.build(column.cast(pl.Float64).fill_null(np.nan).to_numpy())
    pairs = pl.DataFrame({"row": np.arange(len(column)), "value": column})
    pairs = pairs.explode("value") if kind == "multi" else pairs
    pairs = pairs.drop_nulls()
    names = pairs["value"].unique().sort()
    codes = pairs["value"].cast(pl.Enum(names)).to_physical().to_numpy()
    return Values.build(len(column), pairs["row"].to_numpy(), codes.astype(np.int64), names.to_list())
