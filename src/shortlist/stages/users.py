"""The user side of a batch: ids to histories, features and one vector each. Computed once; every stage reads it.

What somebody did since the bundle was made comes with the request (`Request.live`); who reads it from a store is
`shortlist.profiles.live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.data.encoders import FeatureEncoders
from shortlist.devices import Device
from shortlist.devices.cpu import Cpu
from shortlist.profiles.bundle import StoredProfiles
from shortlist.profiles.online import moved
from shortlist.stages.eligibility import Eligibility
from shortlist.stages.popularity import Popularity
from shortlist.types import Float32, Int32, Int64, Request, UserBatch


class Users:
    """Turns requests into a UserBatch, from the request's own history, or the stored one and what is live after it.

    `known_until_ms` is the time, ms since 1970, of the newest event that the bundle knows; 0 where it does not say.
    """

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
        self.known_until_ms: int = bundle.metadata.get("known_until_ms", 0)
        self._tower = (device or Cpu()).scorer(bundle, "user")
        self._version, self._width = bundle.version.encode(), catalog.part("retrieval").shape[1]

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
        eligible = self.eligibility.of(requests)  # read before any id, so that no id is older than the offer
        profiles = self.profiles.find([r.user_id for r in requests])
        told, never = self._told(requests)
        known = [
            rows if r.history else self._stored(int(profile), rows)
            for r, profile, rows in zip(requests, profiles, told, strict=True)
        ]
        history, lengths = _pad(known, self.length)
        return UserBatch(
            history,
            lengths,
            self._side(requests, profiles),
            np.empty((len(requests), 0), np.float32),
            tuple(map(self._masked, known, never)),
            self.popularity.segments([r.context for r in requests]),
            eligible=eligible,
            drift=self._drift(requests),
        )

    def encoded(self, users: UserBatch) -> UserBatch:
        """The same users with their retrieval vectors."""
        vectors = self.encode(users.history, users.lengths, users.side)
        return replace(users, vectors=vectors if users.drift is None else moved(vectors, users.drift))

    def encode(self, history: Int32, lengths: Int64, side: Float32) -> Float32:
        """Retrieval vectors [B, D] of histories [B, L]."""
        items = self.catalog.gather(history, "history")
        vectors: Float32 = self._tower({"history": items, "lengths": lengths, "side": side})
        return vectors

    def _drift(self, requests: Sequence[Request]) -> Float32 | None:
        """What live profiles add to the tower's vectors [B, D]; None where none has anything for this bundle."""
        known = {
            i: np.frombuffer(r.live.drift, "<f4")
            for i, r in enumerate(requests)
            if r.live
            and r.live.drift_bundle == self._version
            and len(r.live.drift) == 4 * self._width
            and not r.history
        }
        if not known:
            return None
        drift = np.zeros((len(requests), self._width), np.float32)
        for i, values in known.items():
            drift[i] = values
        return drift

    def _stored(self, profile: int, then: Int32) -> Int32:
        """The stored history, and after it what came `then`."""
        stored = self.profiles.history(profile)
        return np.concatenate([stored, then]) if len(then) else stored

    def _masked(self, history: Int32, never: Int32) -> Int32:
        return self.catalog.ids.all_rows(np.concatenate([history, never]) if self.mask_seen else never)

    def _told(self, requests: Sequence[Request]) -> tuple[list[Int32], list[Int32]]:
        """Rows of the history that comes with each request, its own or a live one, and of items never to return."""
        histories = [r.history or (r.live.history if r.live else ()) for r in requests]
        lists = histories + [r.exclude + r.live.disliked if r.live else r.exclude for r in requests]
        rows = self.catalog.ids.rows([item for ids in lists for item in ids])  # all at once: a call costs some µs
        if not len(rows):
            return [rows] * len(requests), [rows] * len(requests)
        ends = accumulate(map(len, lists))
        parts = (rows[end - len(ids) : end] for ids, end in zip(lists, ends, strict=True))
        found = [part[part >= 0] for part in parts]
        return found[: len(requests)], found[len(requests) :]

    def _side(self, requests: Sequence[Request], profiles: Int32) -> Float32:
        side = np.empty((len(requests), self.features.side_width), np.float32)
        width = self.features.user_encoder.width
        side[:, :width] = self.profiles.user_features(profiles)
        for row, r in zip(side, requests, strict=True):
            row[width:] = self.features.context_row(r.context)
        return side


def _pad(histories: Sequence[Int32], length: int) -> tuple[Int32, Int64]:
    """Most recent `length` rows of each, right-padded with -1 to the longest (at least 1): [B, L], lengths [B]."""
    lengths = [min(len(h), length) for h in histories]
    padded = np.full((len(histories), max([1, *lengths])), -1, np.int32)
    for row, history, kept in zip(padded, histories, lengths, strict=True):
        if kept:
            row[:kept] = history[-kept:]
    return padded, np.array(lengths, np.int64)
