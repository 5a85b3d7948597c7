"""Profiles stored in the bundle: every known user's history and features, memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.types import Float32, Int32, Int64


@dataclass(frozen=True)
class StoredProfiles:
    """Histories as CSR (rows of user u: `rows[offsets[u]:offsets[u+1]]`, oldest first) and encoded user features."""

    ids: IdMap
    offsets: Int64  # [U + 1]
    rows: Int32  # [M]
    features: Float32  # [U, Fu]
    unknown: Float32  # [Fu] features of somebody we know nothing of

    @classmethod
    def load(cls, bundle: Bundle) -> StoredProfiles:
        """Memory-map the bundle's profiles."""
        offsets, rows, features = (bundle.array(f"profile_{part}") for part in ("offsets", "rows", "features"))
        return cls(IdMap.load(bundle, "user"), offsets, rows, features, bundle.array("profile_unknown"))

    def find(self, user_ids: Sequence[bytes]) -> Int32:
        """Profile rows of `user_ids`, -1 where unknown."""
        return self.ids.rows(user_ids)

    def history(self, user: int) -> Int32:
        """All catalogue rows of one user, oldest first; empty for -1."""
        if user < 0:
            return np.empty(0, np.int32)
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def user_features(self, users: Int32) -> Float32:
        """Encoded features [B, Fu]; the unknown user's where -1."""
        if not len(self.features):
            return np.repeat(self.unknown[None], len(users), axis=0)
        gathered: Float32 = self.features[np.maximum(users, 0)]
        gathered[users < 0] = self.unknown
        return gathered
