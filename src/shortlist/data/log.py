"""The interaction log as arrays: who had which item, in what order.

Every later step (splits, training, evaluation, export) reads this one encoding; it holds no attributes and knows no
files. `shortlist.data.dataset` makes it from tables, `shortlist.data.splits` cuts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shortlist.types import Bool, Float32, Int32, Int64

Int16 = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """M interactions of U users with N items, grouped by user and in time order within each user."""

    user_ids: list[str]  # [U]
    item_ids: list[str]  # [N] every item of the data set; the row of an item is its position here
    offsets: Int64  # [U + 1] user u owns the events offsets[u] : offsets[u + 1]
    rows: Int32  # [M] item rows
    timestamps: Int64  # [M] seconds since 1970 UTC; the position in the sequence where the data have no time
    events: Int16  # [M] code into event_names
    values: Float32  # [M] rating, dwell …; NaN where missing
    event_names: list[str]
    has_timestamps: bool
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # further columns of the interaction, [M] each

    def __post_init__(self) -> None:
        events = len(self.rows)
        columns: list[NDArray[Any]] = [self.timestamps, self.events, self.values, *self.context.values()]
        if len(self.offsets) != self.n_users + 1 or int(self.offsets[-1]) != events:
            raise ValueError(f"offsets do not describe {self.n_users} users and {events} events")
        if any(len(column) != events for column in columns):
            raise ValueError(f"columns of the log disagree with its {events} events")

    @classmethod
    def from_arrays(
        cls,
        users: ArrayLike,
        rows: ArrayLike,
        *,
        user_ids: Sequence[str],
        item_ids: Sequence[str],
        timestamps: ArrayLike | None = None,
        events: ArrayLike | None = None,
        values: ArrayLike | None = None,
        event_names: Sequence[str] = ("interaction",),
        context: Mapping[str, NDArray[Any]] | None = None,
    ) -> InteractionLog:
        """Build from M interactions in file order: user indices `users`, item `rows`, and optional columns.

        Events are sorted by user, then time; ties keep the order given here. Without `timestamps` the order given
        here is the time order.
        """
        owners = np.asarray(users, np.int64)
        n_events = len(owners)
        order = (
            np.argsort(owners, kind="stable") if timestamps is None else np.lexsort((np.asarray(timestamps), owners))
        )
        offsets = _offsets(np.bincount(owners, minlength=len(user_ids)))
        if timestamps is None:
            times = np.arange(n_events, dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))
        else:
            times = np.asarray(timestamps, np.int64)[order]
        return cls(
            user_ids=list(user_ids),
            item_ids=list(item_ids),
            offsets=offsets,
            rows=np.asarray(rows, np.int32)[order],
            timestamps=times,
            events=np.zeros(n_events, np.int16) if events is None else np.asarray(events, np.int16)[order],
            values=np.full(n_events, np.nan, np.float32) if values is None else np.asarray(values, np.float32)[order],
            event_names=list(event_names),
            has_timestamps=timestamps is not None,
            context={name: np.asarray(column)[order] for name, column in (context or {}).items()},
        )

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def history(self, user: int) -> Int32:
        """All item rows of one user, oldest first: a view, not a copy."""
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def lengths(self) -> Int64:
        """Number of events of each user, [U]."""
        return np.diff(self.offsets)

    def users(self) -> Int32:
        """The user index of each event, [M]."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), self.lengths())

    def positions(self) -> Int64:
        """The place of each event in its user's sequence, from 0, [M]."""
        return np.arange(len(self), dtype=np.int64) - np.repeat(self.offsets[:-1], self.lengths())

    def popularity(self) -> Int64:
        """Number of events of each item, [N]."""
        return np.bincount(self.rows, minlength=self.n_items).astype(np.int64)

    def repeat_rate(self) -> float:
        """Share of interactions with an item that the same user already had; 0 for an empty log."""
        if not len(self):
            return 0.0
        pairs = self.users().astype(np.int64) * self.n_items + self.rows
        return 1.0 - len(np.unique(pairs)) / len(self)

    def reordered(self, order: Int64) -> InteractionLog:
        """The same log with its items in another order: row i is what was row `order[i]`, [N]."""
        rows = place_in(order)[self.rows]
        return replace(self, item_ids=[self.item_ids[row] for row in order.tolist()], rows=rows)

    def keep(self, mask: Bool) -> InteractionLog:
        """The log of the events where `mask` [M] is true; users and items keep their indices, users may be empty."""
        kept = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        return replace(
            self,
            offsets=kept[self.offsets],
            rows=self.rows[mask],
            timestamps=self.timestamps[mask],
            events=self.events[mask],
            values=self.values[mask],
            context={name: column[mask] for name, column in self.context.items()},
        )


def place_in(order: Int64) -> Int32:
    """Where each row stands in `order` [N], a permutation of them."""
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return places


def _offsets(lengths: NDArray[Any]) -> Int64:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
