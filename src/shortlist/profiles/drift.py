"""The online-updated user vector, kept in the profile: each event that says yes to an item moves it by one step.

What is kept is the drift from the tower's vector, so that a request adds it to whatever the tower says then. It
belongs to one bundle and begins anew with the next. The step is `online`'s; whether it is worth its cost, which is that
the tower runs for every event, docs/precompute.md tells.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.config import CascadeConfig
from shortlist.events.schema import Event
from shortlist.profiles.online import BOUND, LEARNING_RATE, NEGATIVES, bounded, step
from shortlist.profiles.state import EMPTY, POSITIVE, Profile, weight
from shortlist.stages.popularity import Popularity
from shortlist.stages.users import Users
from shortlist.types import Float32, Int32, Live, Request


class Drift:
    """Moves the vectors of profiles: for one thread, the same for the consumer and for a check of what it did."""

    def __init__(self, path: Path) -> None:
        """Read item vectors and tower of the bundle at `path`. Raises BundleError."""
        bundle = Bundle.open(path)
        catalog = Catalog.load(bundle)
        history = CascadeConfig.model_validate(bundle.metadata["cascade"]).history
        self._users = Users(bundle, catalog, Popularity(bundle), history)
        self._items = np.ascontiguousarray(catalog.part("retrieval"), np.float32)
        self._bundle = bundle.version.encode()
        nothing = np.zeros(self._items.shape[1], np.float32)
        self._step(nothing, nothing, 0, np.zeros(NEGATIVES, np.int32))  # compiles

    def __call__(self, before: Profile | None, after: Profile, event: Event) -> Profile:
        """`after`, which `event` made of `before`, with its drift moved on."""
        if event.timestamp_ms <= self._users.known_until_ms or weight(event.type, event.value) < POSITIVE:
            return after
        target = int(self._users.catalog.ids.rows([event.item_id.encode()])[0])
        if target < 0:
            return after
        if before is None or after.version == 1:  # somebody new, or new again after a long silence
            before = EMPTY
        live = Live(before.version, before.updated_ms, tuple(before.seen_since(self._users.known_until_ms)))
        users = self._users.read([Request(event.user_id.encode(), live=live)])
        drift = floats_of(before, self._bundle, self._items.shape[1])
        moved = self._step(drift, users.vectors[0], target, self._negatives(event, target, users.masked[0]))
        if not np.isfinite(moved).all():  # of a damaged item: it must not empty all slates of the person
            return after
        return msgspec.structs.replace(after, vector=moved.astype("<f4").tobytes(), vector_bundle=self._bundle)

    def _step(self, drift: Float32, tower: Float32, target: int, negatives: Int32) -> Float32:
        rate, bound = np.float32(LEARNING_RATE), np.float32(BOUND)
        moved: Float32 = step(bounded(drift, tower, bound), tower, self._items, target, negatives, rate, bound)
        return moved

    def _negatives(self, event: Event, target: int, masked: Int32) -> Int32:
        """Rows that follow from the event alone, so that a replay draws the same; -1 where one is no negative."""
        seed = blake2b(event.event_id.encode(), digest_size=4 * NEGATIVES).digest()
        drawn = (np.frombuffer(seed, "<u4") % len(self._items)).astype(np.int32)
        drawn[(drawn == target) | np.isin(drawn, masked)] = -1
        return drawn


def floats_of(profile: Profile, bundle: bytes, width: int) -> Float32:
    """The drift [width] of a profile in the space of a bundle; zeros where it has none there."""
    if profile.vector_bundle != bundle or len(profile.vector) != 4 * width:
        return np.zeros(width, np.float32)
    return np.frombuffer(profile.vector, "<f4")
