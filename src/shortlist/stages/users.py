"""The user side of a batch: ids to histories, features and one vector each. Computed once; every stage reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.data.encoders import FeatureEncoders
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.profiles.bundle import StoredProfiles
from shortlist.stages.eligibility import Eligibility
from shortlist.stages.popularity import Popularity
from shortlist.types import Float32, Int32, Int64, Request, UserBatch


class Users:
    """Turns requests into a UserBatch, from the request's own history or the stored profile."""

    def __init__(
        self,
        bundle: Bundle,
        catalog: Catalog,
        popularity: Popularity,
        length: int,
        device: Device | None = None,
        eligibility: Eligibility | None = None,
    ) -> None:
        self.catalog = catalog
        self.popularity = popularity
        self.eligibility = eligibility or Eligibility(bundle, len(catalog))
        self.length = length
        self.profiles = StoredProfiles.load(bundle)
        self.features = FeatureEncoders.from_document(bundle.document("features"))
        self.mask_seen: bool = bundle.metadata["mask_seen"]
        self._tower = (device or Cpu()).scorer(bundle, "user")

    def check(self, request: Request) -> None:
        """Raise RequestError when the context or the predicate does not fit the bundle."""
        self.features.validate_context(request.context)
        if request.eligible:
            self.eligibility.read(request.eligible)

    def read(self, requests: Sequence[Request]) -> UserBatch:
        """The user side of B valid requests, vectors included."""
        return self.encoded(self.look_up(requests))

    def look_up(self, requests: Sequence[Request]) -> UserBatch:
        """The user side of B valid requests as far as no tower is needed: `vectors` is empty."""
        profiles = self.profiles.find([r.user_id for r in requests])
        known = [self._known_history(r, int(p)) for r, p in zip(requests, profiles, strict=True)]
        history, lengths = _pad(known, self.length)
        return UserBatch(
            history,
            lengths,
            self._side(requests, profiles),
            np.empty((len(requests), 0), np.float32),
            tuple(self._masked(r, rows) for r, rows in zip(requests, known, strict=True)),
            self.popularity.segments([r.context for r in requests]),
            eligible=self.eligibility.of(requests),
        )

    def encoded(self, users: UserBatch) -> UserBatch:
        """The same users with their retrieval vectors."""
        return replace(users, vectors=self.encode(users.history, users.lengths, users.side))

    def encode(self, history: Int32, lengths: Int64, side: Float32) -> Float32:
        """Retrieval vectors [B, D] of histories [B, L]."""
        items = self.catalog.gather(history, "history")
        vectors: Float32 = self._tower({"history": items, "lengths": lengths, "side": side})
        return vectors

    def _known_history(self, request: Request, profile: int) -> Int32:
        if not request.history:
            return self.profiles.history(profile)
        rows = self.catalog.ids.rows(request.history)
        return rows[rows >= 0]

    def _masked(self, request: Request, history: Int32) -> Int32:
        excluded = self.catalog.ids.rows(request.exclude)
        excluded = excluded[excluded >= 0]
        return np.concatenate([history, excluded]) if self.mask_seen else excluded

    def _side(self, requests: Sequence[Request], profiles: Int32) -> Float32:
        user = self.profiles.user_features(profiles)
        context = np.stack([self.features.context_row(r.context) for r in requests])
        return np.concatenate([user, context], axis=1)


def _pad(histories: Sequence[Int32], length: int) -> tuple[Int32, Int64]:
    """Most recent `length` rows of each, right-padded with -1 to the longest (at least 1): [B, L], lengths [B]."""
    lengths = np.array([min(len(h), length) for h in histories], np.int64)
    padded = np.full((len(histories), max(1, int(lengths.max(initial=0)))), -1, np.int32)
    for row, history, kept in zip(padded, histories, lengths, strict=True):
        if kept:
            row[:kept] = history[-kept:]
    return padded, lengths
