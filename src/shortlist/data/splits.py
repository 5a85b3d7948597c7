"""Which events train the models and which are predicted, under three protocols.

`leave-one-out` holds out each user's last two events, `rolling` everything after a global time cut, `cold-users` whole
users. A split only names events of one log; it copies no history, so that evaluation gathers histories in batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Protocol
from shortlist.data.log import InteractionLog
from shortlist.errors import DataError
from shortlist.types import Bool, Int32, Int64

COLD_POSITIONS = (0, 1, 2, 5, 10)
VALIDATION_SHARE = 0.1
SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600, 86_400
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


@dataclass(frozen=True, eq=False)
class Examples:
    """E events to predict. Example e has target `log.rows[log.offsets[u] + p]` and, as history, the p events before."""

    log: InteractionLog
    users: Int32  # [E]
    positions: Int32  # [E] place of the target in its user's sequence; 0 means no history

    @classmethod
    def every(cls, log: InteractionLog, *, first: int = 1, latest: int | None = None) -> Examples:
        """Every event of `log` from position `first` on; of each user only the `latest` ones when given."""
        positions = log.positions()
        mask = positions >= first
        if latest is not None:
            mask &= positions >= np.repeat(log.lengths() - latest, log.lengths())
        return cls.where(log, mask)

    @classmethod
    def where(cls, log: InteractionLog, mask: Bool) -> Examples:
        """The events of `log` where `mask` [M] is true."""
        return cls(log, log.users()[mask], log.positions()[mask].astype(np.int32))

    def __len__(self) -> int:
        return len(self.users)

    def events(self) -> Int64:
        """Index of each target in the log's columns, [E]."""
        return self.log.offsets[self.users] + self.positions

    def targets(self) -> Int32:
        """Item row to predict, [E]."""
        return self.log.rows[self.events()]

    def histories(self, start: int, stop: int, length: int) -> tuple[Int64, Int64]:
        """The most recent `length` events before each target of examples start:stop.

        Returns rows Int64[B, length], oldest first, right-padded with -1, and their lengths Int64[B].
        """
        index, mask = self.history_events(start, stop, length)
        rows = np.full(index.shape, -1, np.int64)
        rows[mask] = self.log.rows[index[mask]]
        return rows, mask.sum(axis=1)

    def history_events(self, start: int, stop: int, length: int) -> tuple[Int64, Bool]:
        """Indices into the log's columns of the same histories, Int64[B, length], and where they are real."""
        positions = self.positions[start:stop].astype(np.int64)
        lengths = np.minimum(positions, length)
        oldest = self.log.offsets[self.users[start:stop]] + positions - lengths
        places = np.arange(length, dtype=np.int64)
        return oldest[:, None] + places, places < lengths[:, None]

    def contexts(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Context columns of the target events: hour and weekday (UTC) where time is known, and the log's own.

        Only what is known before the answer: never the event type or value of the target.
        """
        events = self.subset(slice(start, stop)).events()
        columns: dict[str, NDArray[Any]] = {}
        if self.log.has_timestamps:
            columns.update(time_of(self.log.timestamps[events]))
        columns.update({name: column[events] for name, column in self.log.context.items()})
        return columns

    def subset(self, index: NDArray[Any] | slice) -> Examples:
        """The examples at `index`: indices, a mask [E], or a slice."""
        return Examples(self.log, self.users[index], self.positions[index])

    def sample(self, size: int, seed: int) -> Examples:
        """At most `size` examples, drawn without replacement and kept in order."""
        if size >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), size, replace=False)
        return self.subset(np.sort(chosen))


@dataclass(frozen=True, eq=False)
class Split:
    """What trains, what chooses between models, and what is reported."""

    protocol: Protocol
    train: InteractionLog  # same users and items as the full log; users may be empty
    validation: Examples
    test: Examples

    @property
    def deploy_log(self) -> InteractionLog:
        """The full log: what a deployed model knows."""
        return self.test.log

    def reordered(self, order: Int64) -> Split:
        """The same split with its items in another order: row i is what was row `order[i]`, [N]."""
        validation, test = (replace(part, log=part.log.reordered(order)) for part in (self.validation, self.test))
        return replace(self, train=self.train.reordered(order), validation=validation, test=test)


def time_of(timestamps: Int64) -> dict[str, Int64]:
    """Hour (0..23) and weekday (0..6, Monday is 0) in UTC."""
    days = timestamps // SECONDS_PER_DAY
    return {"hour": timestamps % SECONDS_PER_DAY // SECONDS_PER_HOUR, "weekday": (days + EPOCH_WEEKDAY) % 7}


def make_split(
    log: InteractionLog, protocol: Protocol, seed: int = 0, *, test_share: float = 0.2, cold_share: float = 0.1
) -> Split:
    """Cut `log` by `protocol`. Raises DataError where the log cannot be cut so."""
    if protocol == "leave-one-out":
        split = _leave_one_out(log)
    elif protocol == "rolling":
        split = _rolling(log, test_share)
    elif protocol == "cold-users":
        split = _cold_users(log, cold_share, seed)
    else:
        raise ValueError(f"protocol {protocol!r} is unknown; allowed: leave-one-out, rolling, cold-users")
    if not (len(split.train) and len(split.validation) and len(split.test)):
        sizes = f"{len(split.train)} train, {len(split.validation)} validation and {len(split.test)} test events"
        raise DataError(
            f"{len(log)} interactions split by {protocol!r} give {sizes}; each needs at least one. Add data."
        )
    return split


def _leave_one_out(log: InteractionLog) -> Split:
    """The last event of each user with at least 3 is the test, the one before validation, the rest trains."""
    lengths = log.lengths()
    from_end = np.repeat(lengths, lengths) - log.positions()  # 1 is the last event
    eligible = np.repeat(lengths >= 3, lengths)
    held_out = eligible & (from_end <= 2)
    validation, test = eligible & (from_end == 2), eligible & (from_end == 1)
    return Split("leave-one-out", log.keep(~held_out), Examples.where(log, validation), Examples.where(log, test))


def _rolling(log: InteractionLog, test_share: float) -> Split:
    """Everything from the time of the (1 - test_share) quantile on is the test; each history is rolled forward.

    Events at the very time of a cut fall after it, so that no training event is as late as any evaluated one.
    """
    if not log.has_timestamps:
        raise DataError(
            "protocol 'rolling' needs timestamps, and these data have none; use leave-one-out or cold-users"
        )
    times = np.sort(log.timestamps)
    before_test = (1 - test_share) * len(log)
    test_time = times[int(before_test)]
    validation_time = times[int((1 - VALIDATION_SHARE) * before_test)]
    train, test = log.timestamps < validation_time, log.timestamps >= test_time
    return Split("rolling", log.keep(train), Examples.where(log, ~train & ~test), Examples.where(log, test))


def _cold_users(log: InteractionLog, share: float, seed: int) -> Split:
    """A share of users is wholly held out for test and as many for validation; their first and last events count."""
    active = np.flatnonzero(log.lengths())
    shuffled = np.random.default_rng(seed).permutation(active)
    size = max(1, round(share * len(active)))
    test, validation = shuffled[:size], shuffled[size : 2 * size]
    known = ~np.isin(log.users(), shuffled[: 2 * size])
    return Split("cold-users", log.keep(known), _first_events(log, validation), _first_events(log, test))


def _first_events(log: InteractionLog, users: NDArray[np.int64]) -> Examples:
    lengths, positions = log.lengths(), log.positions()
    last = positions == np.repeat(lengths - 1, lengths)
    counted = np.isin(positions, COLD_POSITIONS) | last
    return Examples.where(log, counted & np.isin(log.users(), users))
