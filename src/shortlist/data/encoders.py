"""Rows of features from columns of attributes: the one encoder that training and serving share.

`transform` (many rows) and `row` (one, in microseconds) run the same code for each value, so they give the same bits.
What a single column becomes is told in `shortlist.data.columns`; which columns there are, in `shortlist.data.features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.data.columns import (
    Document,
    Encoder,
    column_from_document,
    column_to_document,
    fit_column,
    refuse,
)
from shortlist.types import Float32

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


class FeatureEncoder:
    """The features of items, users or contexts, at least one column wide: a zero stands in where there is nothing."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = list(encoders)
        self.names = [name for encoder in self.encoders for name in encoder.names] or ["none"]
        ends = list(accumulate(len(encoder.names) for encoder in self.encoders))
        self._parts = [
            (encoder.name, encoder, slice(end - len(encoder.names), end))
            for encoder, end in zip(self.encoders, ends, strict=True)
        ]

    @classmethod
    def fit(cls, kinds: Mapping[str, str], columns: Columns) -> FeatureEncoder:
        """Fit on training rows. `kinds`: name of each column -> category, multi, text, numeric or cyclic."""
        return cls([fit_column(name, kind, _values(columns[name])) for name, kind in kinds.items()])

    @property
    def width(self) -> int:
        return len(self.names)

    def row(self, values: Mapping[str, Any]) -> Float32:
        """One row, [width]. A column that `values` lacks is missing."""
        out = np.zeros(self.width, np.float32)
        for name, encoder, part in self._parts:
            encoder.write(values.get(name), out[part])
        return out

    def transform(self, columns: Columns, size: int) -> Float32:
        """`size` rows, [size, width]: each different value is encoded once. A column that is not given is missing."""
        out = np.zeros((size, self.width), np.float32)
        for name, encoder, part in self._parts:
            if name in columns:
                table, index = _encode_distinct(encoder, _values(columns[name]))
                out[:, part] = table[index]
            else:
                out[:, part], _ = _encode_distinct(encoder, [None])
        return out

    def validate(self, values: Mapping[str, Any], field: str = "context") -> None:
        """Raise RequestError for the first unknown field, wrong type or value out of range."""
        known = {encoder.name: encoder for encoder in self.encoders}
        if not isinstance(values, Mapping):
            raise refuse(field, values, "an object")
        for name, value in values.items():
            if name not in known:
                raise refuse(f"{field}.{name}", value, f"only the fields {', '.join(known)}" if known else "no field")
            if allowed := known[name].check(value):
                raise refuse(f"{field}.{name}", value, allowed)

    def schema(self) -> dict[str, str]:
        """Kind of each field that `validate` accepts; an hour or weekday counts as cyclic."""
        return {encoder.name: encoder.kind for encoder in self.encoders}

    def to_document(self) -> list[Document]:
        """Plain JSON."""
        return [column_to_document(encoder) for encoder in self.encoders]

    @classmethod
    def from_document(cls, document: Sequence[Document]) -> FeatureEncoder:
        """The encoder that `to_document` described."""
        return cls([column_from_document(column) for column in document])


def _encode_distinct(encoder: Encoder, values: Sequence[Any]) -> tuple[Float32, NDArray[np.int64]]:
    """The rows of the different values, and which of them each value is."""
    places: dict[Any, int] = {}
    index = [places.setdefault(tuple(v) if isinstance(v, list) else v, len(places)) for v in values]
    table = np.zeros((len(places), len(encoder.names)), np.float32)
    for value, out in zip(places, table, strict=True):
        encoder.write(value, out)
    return table, np.array(index, np.int64)


def _values(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    """Plain Python values; an array within an array of objects becomes a list."""
    if isinstance(column, np.ndarray):
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in column.tolist()]
    return column
