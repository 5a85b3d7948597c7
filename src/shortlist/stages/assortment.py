"""What one instance has on offer: the bundle's items without those taken off, and items that the bundle does not know.

A thread tells it what changes and then calls `publish`; requests see all of that or nothing of it, and go on as fast as
ever where nothing has changed since the bundle was made. Where changes come from is for `shortlist.serving.offer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from shortlist import bitmap
from shortlist.catalog import Catalog, GrowingIds
from shortlist.config import CascadeConfig
from shortlist.errors import BundleError, RequestError
from shortlist.room import RoomyBundle
from shortlist.stages.delta import Delta
from shortlist.stages.eligibility import Eligibility, Facts
from shortlist.stages.popularity import Popularity
from shortlist.stages.trends import mixed
from shortlist.types import Bitmap

MOST_NEW = 10_000  # new items that an instance takes before it is loaded again; so does a changed one


class Assortment:
    """What is on offer. One thread changes it; `epoch`, `allows` and the counts are for any.

    A row is never used for two items, so that a request under way cannot mistake one for the other.
    """

    def __init__(
        self,
        bundle: RoomyBundle,
        catalog: Catalog,
        config: CascadeConfig,
        eligibility: Eligibility,
        popularity: Popularity,
    ) -> None:
        assert isinstance(catalog.ids, GrowingIds)
        self.epoch = 0  # rises when something comes, or the popularity lists move: slates made before lack it
        self.removed = 0  # of the bundle's items
        self.refused: dict[bytes, str] = {}  # new items that cannot be offered, and why
        self._ids, self._eligibility, self._popularity = catalog.ids, eligibility, popularity
        self.trending = config.trending  # pseudo-events; None: `trend` is not wanted
        self._items, self._first, self._room = bundle.items, bundle.first, bundle.room
        self._delta: Delta | None = None
        self._why_not = ""  # there is no delta
        try:
            self._delta = Delta(bundle, catalog, config)
        except BundleError as error:
            self._why_not = str(error)
        self._bits = self._all()
        self._new: dict[bytes, tuple[Mapping[str, Any], int]] = {}  # what is known of a new item, and its row
        self._facts: dict[int, Facts] = {}  # of every row ever taken

    @property
    def added(self) -> int:
        """New items on offer."""
        offer = self._eligibility.offer
        return len(offer.added) if offer else 0

    def allows(self, item_ids: Sequence[bytes]) -> bool:
        """Whether all of these, of an earlier slate, are on offer, and the deployment's own predicate allows them."""
        return self._eligibility.allows(self._ids.rows(item_ids))

    def replace(self, removed: Iterable[bytes], added: Mapping[bytes, Mapping[str, Any]]) -> None:
        """Forget what was told before: this is how it stands."""
        gone = [*removed]
        self._bits = self._all()
        self.refused.clear()
        for item_id, attributes in added.items():
            self.add(item_id, attributes)
        self._mark(gone, False)

    def remove(self, item_id: bytes) -> None:
        """Take an item off."""
        self._mark([item_id], False)

    def restore(self, item_id: bytes) -> None:
        """Bring a removed item back, unless what is known of it now cannot be offered."""
        self._mark([item_id], item_id not in self.refused)

    def forget(self, item_id: bytes) -> None:
        """Drop a new item; one of the bundle is on offer again."""
        self.refused.pop(item_id, None)
        known = item_id not in self._new
        self._mark([item_id], known)

    def add(self, item_id: bytes, attributes: Mapping[str, Any]) -> None:
        """Offer an item that the bundle does not know; one that it knows is merely brought back.

        What cannot be offered is noted in `refused`.
        """
        known, _ = self._new.get(item_id, (None, -1))
        offered = True
        if known != attributes and self._ids.known.rows([item_id])[0] < 0:
            self._mark([item_id], False)
            offered = self._take(item_id, attributes)
        self._mark([item_id], offered)

    def publish(self) -> None:
        """Have requests see what has been told."""
        offer = self._eligibility.offer
        before = offer.bits if offer else self._all()
        if np.array_equal(self._bits, before):
            return
        bits = self._bits.copy()
        came = bool((bits & ~before).any())
        known = bits[: bitmap.width(self._items)]
        removed = self._items - bitmap.count(known)
        taken = np.array([*self._facts], np.int32)
        added = taken[bitmap.contains(bits, taken)].tolist()
        if removed or self._facts:  # without a limit, lists and slates that hold a new item would go on showing it
            self._eligibility.limit(bits, {row: self._facts[row] for row in added})
        else:
            self._eligibility.offer = None
        self.removed = removed
        self.epoch += came

    @contextmanager
    def without(self, item_id: bytes) -> Iterator[None]:
        """For a moment, while nobody else is asked: one item is off. To warm up with."""
        self.remove(item_id)
        self.publish()
        yield
        self.restore(item_id)
        self.publish()

    def trend(self, documents: Sequence[Mapping[str, Any]], now_ms: int) -> None:
        """Move the popularity lists by what was counted in the partitions of a log (`shortlist.events.trending`)."""
        assert self.trending is not None
        popularity = self._popularity
        lists = mixed(
            popularity.rows, popularity.shares, popularity.everyone, documents, self._ids.rows, self.trending, now_ms
        )
        changed = not np.array_equal(lists[0], popularity.now[0])
        popularity.now = lists
        self.epoch += changed

    def _all(self) -> Bitmap:
        bits = np.zeros(bitmap.width(self._first + self._room), np.uint8)
        everything = bitmap.everything(self._items)
        bits[: len(everything)] = everything
        return bits

    def _mark(self, item_ids: Sequence[bytes], offered: bool) -> None:
        """Whether items are on offer; those that nobody knows are not."""
        rows = self._ids.rows(item_ids)
        rows = rows[rows >= 0]
        if offered:
            bitmap.add(self._bits, rows)
        else:
            bitmap.drop(self._bits, rows)

    def _take(self, item_id: bytes, attributes: Mapping[str, Any]) -> bool:
        """Put a new item into the next free row, if that can be."""
        place = len(self._facts)
        if self._delta is None or place >= self._room:
            self.refused[item_id] = self._why_not or f"{self._room} rows for new items are taken; load the model again"
            return False
        try:
            self._delta.check(attributes)
            facts = self._eligibility.facts(attributes)
        except RequestError as error:
            self.refused[item_id] = str(error)
            return False
        row = self._first + place
        self._delta.write(place, attributes)
        self._facts[row] = facts
        self._new[item_id] = attributes, row
        self._ids.add(item_id, row)
        self.refused.pop(item_id, None)
        return True
