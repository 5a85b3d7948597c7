"""A trained student as the filter reads it: its item table in few bytes, and the constants of its input.

Serving gathers, multiplies, standardises, clips and rounds in one pass (`shortlist.kernels.fuse_features`), which also
computes the student's linear part in float; the rest of it is the graph `filter`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.kernels.fuse_features import Columns, fuse_features, make_columns
from shortlist.models.student import CLIP, Student
from shortlist.stages.delta import SCALE
from shortlist.training.student import Distillation
from shortlist.types import Float32, Int64

Precision = Literal["float16", "int8"]
CONSTANTS = ("multiplier", "offset", "weight")


@dataclass(frozen=True, eq=False)
class FilterInput:
    """What the input of a student is made from, beside the request."""

    items: NDArray[Any]  # float16 or int8 [N, D + F]: retrieval vectors, then features
    item_scale: Float32 | None  # [D + F], of int8 items
    columns: Columns

    def in_float(self, student: Student) -> FilterInput:
        """The same item table, with the features of `student` in float32: what its float graph takes."""
        return replace(self, columns=_columns(student, "float32", self.item_scale))

    def rounded(self, data: Distillation) -> Distillation:
        """`data` with the item table as it is after rounding."""
        items = self.items.astype(np.float32)
        if self.item_scale is not None:
            items *= self.item_scale
        vectors, features = np.split(items, [data.item_vectors.shape[1]], axis=1)
        return replace(data, item_vectors=vectors, item_features=features)

    def inputs(self, data: Distillation, index: Int64) -> dict[str, NDArray[Any]]:
        """The filter graph's inputs for the candidates of the requests at `index`: features [B·K, G], linear [B·K]."""
        batch = data.requests.subset(index)
        users = np.ascontiguousarray(data.user_vectors[index], np.float32)
        channels, side = (np.ascontiguousarray(part, np.float32) for part in (batch.channels, batch.side))
        rows = np.ascontiguousarray(batch.rows, np.int32)
        features, linear = fuse_features(self.items, rows, users, channels, side, self.columns)
        return {"features": features.reshape(-1, features.shape[2]), "linear": linear.ravel()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of a bundle."""
        constants = np.stack([getattr(self.columns, name) for name in CONSTANTS])
        scale = {} if self.item_scale is None else {SCALE: self.item_scale}
        return {"filter_items": self.items, "filter_columns": constants, **scale}

    def document(self) -> dict[str, Any]:
        """The numbers of a bundle's document `filter`."""
        return {name: value for name, value in asdict(self.columns).items() if name not in CONSTANTS}


def filter_input(
    student: Student,
    item_vectors: Float32,
    item_features: Float32,
    precision: Precision = "float16",
    dtype: str = "uint8",
) -> FilterInput:
    """The input of `student` for items [N, D] and [N, F]; `dtype` is that of its features, as the graph takes them."""
    table = np.concatenate([item_vectors, item_features], axis=1, dtype=np.float32)
    items, item_scale = quantized_table(table) if precision == "int8" else (_half(table), None)
    return FilterInput(items, item_scale, _columns(student, dtype, item_scale))


def quantized_table(table: Float32) -> tuple[NDArray[np.int8], Float32]:
    """int8 [N, W] and the scale [W] that gives the table back: the largest magnitude of a column is 127 steps."""
    largest = np.abs(table).max(axis=0, initial=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale


def _half(table: Float32) -> NDArray[np.float16]:
    most = np.finfo(np.float16).max
    return np.clip(table, -most, most).astype(np.float16)


def _columns(student: Student, dtype: str, item_scale: Float32 | None) -> Columns:
    mean, scale, weight = (part.detach().numpy() for part in (student.mean, student.scale, student.skip.weight[0]))
    return make_columns(mean, scale, weight, float(student.skip.bias.item()), CLIP, dtype, item_scale)
