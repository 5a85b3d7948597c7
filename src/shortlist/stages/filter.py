"""Stage 2: the quantized student scores every candidate; a fifth of them go on."""

from __future__ import annotations

from dataclasses import replace

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.kernels.fuse_features import Columns, warm_up
from shortlist.kernels.fuse_features.columns import retyped
from shortlist.stages.best import keep_best
from shortlist.types import Candidates, Float32, UserBatch


class Filter:
    """An INT8 MLP over [user ⊙ item | item features | retrieval scores | side], plus a linear part in float.

    The kernel turns each candidate into a row of 8-bit integers and its linear part; the graph makes a score of them.
    """

    def __init__(self, bundle: Bundle, catalog: Catalog, device: Device | None = None) -> None:
        device = device or Cpu()
        self.items = device.keep(bundle.array("filter_items"))  # float16 or int8 [N, D + F]
        if len(self.items) != len(catalog.table):
            raise ValueError(f"filter_items has {len(self.items)} rows, the catalogue {len(catalog.table)}")
        self._student = device.scorer(bundle, "filter")
        self.columns = _columns(bundle, self._student.dtype("features"), device)
        self._fuse = device.fuse_features
        if device.name == "cpu":
            warm_up((self.items.dtype.name,), self.columns.dtype)

    def __call__(self, users: UserBatch, candidates: Candidates, depth: int) -> Candidates:
        """The `depth` candidates that the student scores highest."""
        return keep_best(candidates, self.score(users, candidates), depth)

    def score(self, users: UserBatch, candidates: Candidates) -> Float32:
        """Student scores [B, N]; -inf at padding."""
        features, linear = self._fuse(
            self.items, candidates.rows, users.vectors, candidates.channels, users.side, self.columns
        )
        scores: Float32 = self._student(
            {"features": features.reshape(-1, features.shape[2]), "linear": linear.reshape(-1)}
        )
        return scores.reshape(candidates.rows.shape)  # -inf is the linear part of padding


def _columns(bundle: Bundle, dtype: str | None, device: Device) -> Columns:
    """The constants of the student's input, on the device, for a graph that takes `dtype` instead of the bundle's."""
    multiplier, offset, weight = bundle.array("filter_columns")
    columns = Columns(multiplier, offset, weight, **bundle.document("filter"))
    if dtype not in (None, columns.dtype):
        from shortlist.export.twin import feature_step  # brings ONNX, which the bundle's own graphs do not need

        columns = retyped(columns, dtype, feature_step(bundle.graph("filter").read_bytes()))
    kept = {name: device.keep(getattr(columns, name)) for name in ("multiplier", "offset", "weight")}
    return replace(columns, **kept)
