"""Rows of features from columns of attributes: the one encoder that training and serving share.

`transform` (many rows) and `row` (one, in microseconds) run the same code for each value, so they give the same bits.
What a single column becomes is told in `shortlist.data.columns`; which columns there are, in `shortlist.data.features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shortlist.data.columns import (
    Document,
    Encoder,
    column_from_document,
    column_to_document,
    fit_column,
)
from shortlist.data.values import refuse
from shortlist.types import Float32

if TYPE_CHECKING:
    from scipy import sparse

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

    def transform_sparse(self, columns: Columns, size: int) -> sparse.csr_matrix:
        """The same rows, of which only what is not 0 is kept: for many wide ones."""
        from scipy import sparse  # serving does not need it

        given = [columns[name] if name in columns else [None] * size for name, _, _ in self._parts]
        parts = [_sparse_rows(encoder, _values(c)) for (_, encoder, _), c in zip(self._parts, given, strict=True)]
        return sparse.hstack(parts or [sparse.csr_matrix((size, 1))], format="csr", dtype=np.float32)

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
    places, index = _distinct(values)
    table = np.zeros((len(places), len(encoder.names)), np.float32)
    for value, out in zip(places, table, strict=True):
        encoder.write(value, out)
    return table, index


def _sparse_rows(encoder: Encoder, values: Sequence[Any]) -> sparse.csr_matrix:
    from scipy import sparse

    places, index = _distinct(values)
    row = np.zeros(len(encoder.names), np.float32)
    columns, weights = [], []
    for value in places:
        encoder.write(value, row)
        filled = np.flatnonzero(row)
        columns.append(filled)
        weights.append(row[filled])
        row[filled] = 0
    indptr = np.cumsum([0, *map(len, columns)])
    shape = (len(places), len(row))
    return sparse.csr_matrix((np.concatenate(weights), np.concatenate(columns), indptr), shape=shape)[index]


def _distinct(values: Sequence[Any]) -> tuple[dict[Any, int], NDArray[np.int64]]:
    """The place of each different value among them, and the place of each value."""
    places: dict[Any, int] = {}
    index = [places.setdefault(tuple(v) if isinstance(v, list) else v, len(places)) for v in values]
    return places, np.array(index, np.int64)


def _values(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    """Plain Python values; an array within an array of objects becomes a list."""
    if isinstance(column, np.ndarray):
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in column.tolist()]
    return column


@dataclass(frozen=True, eq=False)
class FeatureEncoders:
    """What a server needs: the fitted encoders of items, users and contexts."""

    item_encoder: FeatureEncoder
    user_encoder: FeatureEncoder
    context_encoder: FeatureEncoder

    def item_row(self, attributes: Mapping[str, Any]) -> Float32:
        """Content features of one item, [C]."""
        return self.item_encoder.row(attributes)

    def user_row(self, attributes: Mapping[str, Any] | None) -> Float32:
        """Features of one user, [Fu]; None is somebody unknown."""
        return self.user_encoder.row(attributes or {})

    def context_row(self, context: Mapping[str, Any]) -> Float32:
        """Features of one valid context, [Fc]; an absent field takes what training saw on average."""
        return self.context_encoder.row(context)

    def validate_context(self, context: Mapping[str, Any]) -> None:
        """Raise RequestError naming the first bad field of a request's context, its value and what is allowed."""
        self.context_encoder.validate(context)

    @property
    def side_width(self) -> int:
        """S: width of [user features | context features]."""
        return self.user_encoder.width + self.context_encoder.width

    def to_document(self) -> dict[str, Any]:
        """Plain JSON of the three encoders."""
        return {
            "item": self.item_encoder.to_document(),
            "user": self.user_encoder.to_document(),
            "context": self.context_encoder.to_document(),
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> FeatureEncoders:
        """The encoders that `to_document` described."""
        return FeatureEncoders(*(FeatureEncoder.from_document(document[name]) for name in ("item", "user", "context")))
