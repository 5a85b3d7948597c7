"""Stage 2: the quantized student scores every candidate; a fifth of them go on."""

from __future__ import annotations

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.kernels.fuse_features import Columns, fuse_features, warm_up
from shortlist.stages.best import keep_best
from shortlist.stages.session import open_session
from shortlist.types import Candidates, Float32, UserBatch


class Filter:
    """An INT8 MLP over [user ⊙ item | item features | retrieval scores | side], plus a linear part in float.

    The kernel turns each candidate into a row of 8-bit integers and its linear part; the graph makes a score of them.
    """

    def __init__(self, bundle: Bundle, catalog: Catalog) -> None:
        self.items = bundle.array("filter_items")  # float16 or int8 [N, D + F]
        if len(self.items) != len(catalog):
            raise ValueError(f"filter_items has {len(self.items)} rows, the catalogue {len(catalog)}")
        multiplier, offset, weight = bundle.array("filter_columns")
        self.columns = Columns(multiplier, offset, weight, **bundle.document("filter"))
        self._session = open_session(bundle.graph("filter"))
        warm_up((self.items.dtype.name,), self.columns.dtype)

    def __call__(self, users: UserBatch, candidates: Candidates, depth: int) -> Candidates:
        """The `depth` candidates that the student scores highest."""
        return keep_best(candidates, self.score(users, candidates), depth)

    def score(self, users: UserBatch, candidates: Candidates) -> Float32:
        """Student scores [B, N]; -inf at padding."""
        features, linear = fuse_features(
            self.items, candidates.rows, users.vectors, candidates.channels, users.side, self.columns
        )
        inputs = {"features": features.reshape(-1, features.shape[2]), "linear": linear.reshape(-1)}
        scores: Float32 = self._session.run(None, inputs)[0]
        return scores.reshape(candidates.rows.shape)  # -inf is the linear part of padding
