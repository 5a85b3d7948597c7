"""Retrieval's proposals on a device other than the CPU: pooled, scored and cut for all users of a batch at once.

The same pool, scores and order as the CPU's loop in `retrieve`, in array operations that wait for nothing: what the
host knows comes in one copy, as flat lists sorted by user and row, padded so that sizes repeat from batch to batch.
Whatever proposed it, a row that its user may not get (`shortlist.stages.allowed`) is dropped here. Scores repeat the
CPU's sums bit by bit: `shortlist.kernels.score_pool` adds up in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.devices import Device, Index
from shortlist.kernels import top_k
from shortlist.kernels.score_pool import score_pool
from shortlist.stages.allowed import SPARE, Allowed, Known, Limits, search
from shortlist.types import Candidates, Eligible, Float32, Int32, UserBatch

MOST_NEAR = 2048  # that FAISS finds on a GPU
LARGEST = np.int64(2**63 - 1)
MOST_PROPOSED = 4096  # by the item-item channels; only equal scores make it more than the index proposes


@dataclass(frozen=True, slots=True)
class Sparse:
    """What the host knows of one user's candidates."""

    wanted: int  # proposals asked of the index; 0 where every allowed row is scored instead
    touched: Int32  # [T] rows with an item-item score, ascending
    linear: Float32  # [T] their scores
    proposed: Int32  # [P] those that are candidates on that score alone, in the order in which ties are resolved
    masked: Int32  # [M] rows never to return, ascending


@dataclass(frozen=True, slots=True)
class Brought(UserBatch):
    """A batch of users on the device, with what `Sparse` says of each; keys are user · items + row, ascending."""

    wanted: Any  # int32 [B]
    most_wanted: int  # of the index, of any user
    touched: Any  # int64 [T] keys, padded with the largest
    linear: Any  # float32 [T]
    proposed: Any  # int32 [B, P] rows, -1 where there are fewer
    barred: Any  # int64 [M] keys of masked rows, padded with the largest
    allowed: Allowed | None = field(default=None, kw_only=True)  # None: everything, for all


def bring(
    device: Device,
    users: UserBatch,
    sparse: Sequence[Sparse],
    items: int,
    diversity: Float32,
    limits: Limits | None = None,
) -> tuple[Brought, Float32]:
    """Everything of a batch that the stages need, in one copy to the device; `items` are the rows of its table."""
    proposed = np.full((len(sparse), bucket(max(len(s.proposed) for s in sparse), MOST_PROPOSED)), -1, np.int32)
    for row, s in zip(proposed, sparse, strict=True):
        kept = s.proposed[: len(row)]
        row[: len(kept)] = kept
    touched, barred = _keys([s.touched for s in sparse], items), _keys([s.masked for s in sparse], items)
    linear = np.zeros(len(touched), np.float32)
    scores = np.concatenate([s.linear for s in sparse])
    linear[: len(scores)] = scores
    wanted = np.array([s.wanted for s in sparse], np.int32)
    lists = (wanted, touched, linear, proposed, barred)
    given = (users.history, users.lengths, users.side, users.vectors, diversity, *lists)
    brought = device.put(*given, *(limits.arrays if limits else ()))
    history, lengths, side, vectors, diversity, on_device, *rest = brought[: len(given)]
    batch = history, lengths, side, vectors, users.masked, users.segments
    allowed = limits.on_device(device.xp, *brought[len(given) :]) if limits else None
    return Brought(*batch, on_device, int(wanted.max()), *rest, allowed=allowed), diversity


def bucket(count: int, most: int | None = None) -> int:
    """`count` rounded up to a power of two, at least 64 and at most `most`."""
    size = 1 << max(6, (count - 1).bit_length())
    return size if most is None else min(size, most)


def choose(
    xp: Any, users: Brought, vectors: Any, index: Index | None, depth: int, nprobe: int | None = None, known: int = 0
) -> Candidates:
    """The `depth` best of each user's pool; without an index the pool is the whole catalogue.

    Of the rows of `vectors` the index knows the first `known`, all where that is 0. An index on a GPU finds at most
    2,048: who excludes more than that less `depth` may get fewer by its channel.
    """
    items = len(vectors)
    near = _near(xp, users, index, known or items, nprobe)
    if users.allowed and users.allowed.rows:
        known_of = Known(users.touched, items, users.linear), Known(users.barred, items, np.float32(-np.inf))
        scored = search(xp, vectors, users.vectors, known_of, users.allowed, min(depth + SPARE, MOST_NEAR))
        near = xp.concatenate([near, scored], axis=1)
    rows, linear = _pool(xp, users, near, items)
    tower, total = score_pool(vectors, rows, users.vectors, linear)
    return _best(xp, rows, tower, linear, total, depth)


def warm_up(device: Device, vectors: Any, index: Index | None, known: int, everything: Eligible) -> None:
    """Have the device compile the search among allowed rows, by one for somebody who saw the first."""
    row, none, one = np.zeros(1, np.int32), np.empty(0, np.int32), np.ones(1, np.int64)
    zero, width = np.zeros((1, 1), np.float32), vectors.shape[1]
    users = UserBatch(row[None], one, zero, np.zeros((1, width), np.float32), (row,), row)
    sparse, limits = [Sparse(1, row, zero[0], none, row)], Limits([everything], [True], known, len(vectors))
    brought, _ = bring(device, users, sparse, len(vectors), zero[0], limits)
    choose(device.xp, brought, vectors, index, 1, None, known)


def _near(xp: Any, users: Brought, index: Index | None, known: int, nprobe: int | None) -> Any:
    """Rows [B, N] that the index proposes, or all it would know; -1 for those that somebody did not ask for."""
    if index is None:
        return xp.broadcast_to(xp.arange(known, dtype=np.int32), (len(users.lengths), known))
    count = min(known, bucket(users.most_wanted, MOST_NEAR)) if users.most_wanted else 0
    if count == 0:
        return xp.zeros((len(users.lengths), 0), np.int32)
    near = index.search(users.vectors, count, nprobe=nprobe).astype(np.int32)
    return xp.where(xp.arange(count, dtype=np.int32) < users.wanted[:, None], near, np.int32(-1))


def _pool(xp: Any, users: Brought, near: Any, items: int) -> tuple[Any, Any]:
    """Rows [B, N] of the pool, each once, -1 for what may not be there or stands twice; their item-item scores."""
    first = xp.arange(len(near), dtype=np.int64)[:, None] * items
    places, known = _look_up(xp, users.touched, near + first, near)
    seen = xp.zeros(len(users.touched) + 1, np.bool_)
    seen[xp.where(known, places, len(users.touched))] = True  # the last place is for those that nothing touched
    again, _ = _look_up(xp, users.touched, users.proposed + first, users.proposed)
    proposed = xp.where(seen[again], np.int32(-1), users.proposed)
    rows = xp.concatenate([near, proposed], axis=1)
    _, barred = _look_up(xp, users.barred, rows + first, rows)
    if users.allowed:
        barred = barred | ~users.allowed.holds(xp, rows)
    linear = xp.concatenate([xp.where(known, users.linear[places], np.float32(0)), users.linear[again]], axis=1)
    return xp.where(barred, np.int32(-1), rows), linear


def _look_up(xp: Any, sorted_keys: Any, keys: Any, rows: Any) -> tuple[Any, Any]:
    """Where each of `keys` stands among the sorted ones, and whether it does; keys of row -1 do not."""
    places = xp.minimum(xp.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return places, (sorted_keys[places] == keys) & (rows >= 0)


def _best(xp: Any, rows: Any, tower: Any, linear: Any, total: Any, depth: int) -> Candidates:
    best = top_k(total, depth)
    places = xp.maximum(best, 0)
    scores = xp.where(best >= 0, xp.take_along_axis(total, places, axis=1), np.float32(-np.inf))
    found = scores > -np.inf
    taken = (xp.take_along_axis(channel, places, axis=1) for channel in (tower, linear))
    return Candidates(
        xp.where(found, xp.take_along_axis(rows, places, axis=1), np.int32(-1)),
        scores,
        xp.stack([xp.where(found, channel, np.float32(0)) for channel in taken], axis=2),
    )


def _keys(rows: Sequence[Int32], items: int) -> NDArray[np.int64]:
    listed = [np.int64(b * items) + user.astype(np.int64) for b, user in enumerate(rows)]
    count = sum(map(len, listed))
    return np.concatenate([*listed, np.full(bucket(count + 1) - count, LARGEST)])
