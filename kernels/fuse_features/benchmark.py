"""Feature fusion against NumPy, torch and the memory itself, on one thread; timing them is the caller's affair.

Every call takes the next of many batches of random rows of a table of 1,000,000 items, several times the size of any
cache, so that rows come from memory. All rivals take from one sequence, write into arrays of their own, and give the
same features; NumPy and torch work request by request, since what they put in between stays in the cache that way.

The roofline, `gather`, moves the same bytes and computes nothing: it reads every row whole and writes as many bytes as
features and linear parts have. It is the fastest, here and now, of `numpy.take` into a ready array and of a compiled
loop that asks for rows 0, 16, 32 or 64 places ahead. So the fraction of the bandwidth that is reached is its time
divided by that of `shortlist`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from shortlist.kernels.fuse_features import Columns, fuse_features, make_columns
from shortlist.kernels.fuse_features.encoding import prefetch
from shortlist.kernels.timing import interleaved

BATCH, COUNT, WIDTH, DIM, CHANNELS, SIDE = 16, 500, 96, 64, 2, 16
TOTAL = WIDTH + CHANNELS + SIDE
BATCHES = 200  # until rows come again: more than any cache holds
DISTANCES = (0, 16, 32, 64)
WORD = 8  # bytes that the roofline's loop moves at a time
Call = Callable[[], object]


@dataclass(frozen=True)
class Batch:
    """items [M, W]; users [B, D], channels [B, N, C], side [B, S]; `rows` gives int32 [B, N], others at each call."""

    items: NDArray[Any]
    users: NDArray[np.float32]
    channels: NDArray[np.float32]
    side: NDArray[np.float32]
    columns: Columns
    rows: Iterator[NDArray[np.int32]]

    def results(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Arrays for features and linear part."""
        return np.empty((BATCH, COUNT, TOTAL), np.uint8), np.empty((BATCH, COUNT), np.float32)


def cases(item_type: str = "float16", table: int = 1_000_000) -> dict[str, Call]:
    """The same features from the same table of `table` items, int8 or float16, on one thread."""
    batch = made_up_batch(item_type, table)
    out = batch.results()

    def shortlist() -> object:
        arguments = (batch.users, batch.channels, batch.side, batch.columns)
        return fuse_features(batch.items, next(batch.rows), *arguments, out=out)

    return {"shortlist": shortlist, "numpy": by_numpy(batch), "torch": by_torch(batch), "gather": fastest_gather(batch)}


def moved(item_type: str = "float16") -> int:
    """Bytes of the table that a call reads, and of features and linear parts that it writes."""
    return BATCH * COUNT * (WIDTH * np.dtype(item_type).itemsize + TOTAL + 4)


def made_up_batch(item_type: str, table: int) -> Batch:
    """Requests for random rows of a table of normal numbers."""
    rng = np.random.default_rng(0)
    scale = np.full(WIDTH, 4 / 127, np.float32) if item_type == "int8" else None
    items = rng.standard_normal((table, WIDTH), np.float32)
    if scale is not None:
        items = np.clip(np.rint(items / scale), -127, 127, out=items)
    mean, weight = rng.standard_normal((2, TOTAL), np.float32)
    deviation = rng.random(TOTAL, np.float32) + np.float32(0.5)
    rows = [rng.integers(0, table, (BATCH, COUNT), np.int32) for _ in range(BATCHES)]
    return Batch(
        items=items.astype(item_type),
        users=rng.standard_normal((BATCH, DIM), np.float32),
        channels=rng.standard_normal((BATCH, COUNT, CHANNELS), np.float32),
        side=rng.standard_normal((BATCH, SIDE), np.float32),
        columns=make_columns(mean, deviation, weight, 0.5, 4.0, "uint8", scale),
        rows=cycle(rows),
    )


def by_numpy(batch: Batch) -> Call:
    """Gather, convert, multiply and add in place; the linear part as a product of matrix and vector."""
    columns, (features, linear) = batch.columns, batch.results()
    gathered, numbers = np.empty((COUNT, WIDTH), batch.items.dtype), np.empty((COUNT, WIDTH), np.float32)
    scaled, constants = np.empty((COUNT, TOTAL), np.float32), (columns.multiplier, columns.offset, columns.weight)
    factor = np.ones((BATCH, WIDTH), np.float32)
    factor[:, :DIM] = batch.users
    first_side = WIDTH + CHANNELS

    def call() -> object:
        multiplier, offset, weight = constants
        for b, rows in enumerate(next(batch.rows)):
            np.take(batch.items, rows, axis=0, out=gathered, mode="clip")
            numbers[:] = gathered
            np.multiply(numbers, factor[b] * multiplier[:WIDTH], out=scaled[:, :WIDTH])
            np.multiply(batch.channels[b], multiplier[WIDTH:first_side], out=scaled[:, WIDTH:first_side])
            scaled[:, first_side:] = batch.side[b] * multiplier[first_side:]
            scaled[:] += offset
            np.rint(scaled, out=scaled)
            np.clip(scaled, columns.low, columns.high, out=scaled)
            features[b] = scaled
            np.dot(numbers, factor[b] * weight[:WIDTH], out=linear[b])
            linear[b] += batch.channels[b] @ weight[WIDTH:first_side]
            linear[b] += columns.bias + batch.side[b] @ weight[first_side:]
        return features, linear

    return call


def by_torch(batch: Batch) -> Call:
    """The same in torch. Torch stays on one thread afterwards."""
    import torch

    torch.set_num_threads(1)
    columns, results = batch.columns, batch.results()
    features, linear = (torch.from_numpy(array) for array in results)
    multiplier, offset, weight = (torch.from_numpy(a) for a in (columns.multiplier, columns.offset, columns.weight))
    items, users, channels, side = (
        torch.from_numpy(array) for array in (batch.items, batch.users, batch.channels, batch.side)
    )
    factor = torch.cat([users, torch.ones(BATCH, WIDTH - DIM)], dim=1)
    gathered, scaled = torch.empty(COUNT, WIDTH, dtype=items.dtype), torch.empty(COUNT, TOTAL)
    numbers, first_side = torch.empty(COUNT, WIDTH), WIDTH + CHANNELS

    def call() -> object:
        for b, rows in enumerate(torch.from_numpy(next(batch.rows))):
            torch.index_select(items, 0, rows, out=gathered)
            numbers.copy_(gathered)
            torch.mul(numbers, factor[b] * multiplier[:WIDTH], out=scaled[:, :WIDTH])
            torch.mul(channels[b], multiplier[WIDTH:first_side], out=scaled[:, WIDTH:first_side])
            scaled[:, first_side:] = side[b] * multiplier[first_side:]
            features[b] = scaled.add_(offset).round_().clamp_(columns.low, columns.high)
            torch.mv(numbers, factor[b] * weight[:WIDTH], out=linear[b])
            linear[b].addmv_(channels[b], weight[WIDTH:first_side])
            linear[b] += columns.bias + side[b] @ weight[first_side:]
        return results

    return call


def fastest_gather(batch: Batch) -> Call:
    """The roofline: see the module's text."""
    words = batch.items.view(np.uint64)
    out = np.empty((BATCH * COUNT, -(-(TOTAL + 4) // WORD)), np.uint64)
    taken = np.empty((BATCH * COUNT, WIDTH), batch.items.dtype)

    def take() -> object:
        return np.take(batch.items, next(batch.rows).ravel(), axis=0, out=taken, mode="clip")

    def loop(distance: int) -> Call:
        move = mover(words.shape[1], out.shape[1], distance)
        return lambda: move(words, next(batch.rows).ravel(), out)

    rivals = {"take": take, **{f"loop {distance}": loop(distance) for distance in DISTANCES}}
    seconds = interleaved(rivals, rounds=10)
    return rivals[min(seconds, key=seconds.__getitem__)]


def mover(read: int, written: int, distance: int) -> Callable[..., None]:
    """A loop over rows that reads `read` words of each, writes `written`, and asks for rows `distance` places ahead."""
    copied, folded = min(read, written), max(read - written, 0)

    @njit(nogil=True)
    def move(words: Any, rows: Any, out: Any) -> None:
        for i in range(len(rows)):
            if distance:
                ahead = rows[min(i + distance, len(rows) - 1)]
                for byte in range(0, read * WORD, 64):
                    prefetch(words, ahead, byte)
                prefetch(words, ahead, read * WORD - 1)
            row = rows[i]
            for j in range(copied):
                out[i, j] = words[row, j] ^ words[row, j + folded] if folded else words[row, j]
            for j in range(copied, written):
                out[i, j] = words[row, j - copied]

    function: Callable[..., None] = move
    return function
