"""A tiny world for tests of ranking: sequences that step through the catalogue, and a retriever that half knows it."""

from __future__ import annotations

import numpy as np

from shortlist.data.log import InteractionLog
from shortlist.types import Float32, Int64

ITEMS = 40


def walking_log(users: int = 80, length: int = 12, seed: int = 0) -> InteractionLog:
    """Each user starts anywhere and moves 1 or 2 items on: the last item tells the next."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 3, (users, length))
    rows = (rng.integers(0, ITEMS, (users, 1)) + np.cumsum(steps, axis=1)) % ITEMS
    return InteractionLog.from_arrays(
        np.repeat(np.arange(users), length),
        rows.ravel(),
        user_ids=[f"u{u}" for u in range(users)],
        item_ids=[f"i{i}" for i in range(ITEMS)],
        timestamps=np.tile(np.arange(length), users),
        values=rng.integers(1, 6, users * length).astype(np.float32),
    )


class FixedRetriever:
    """Tower scores that are the same for everyone; the linear channel adds `signal` to the true next items."""

    def __init__(self, seed: int = 0, signal: float = 0.0) -> None:
        self.popular = np.random.default_rng(seed).normal(size=ITEMS).astype(np.float32)
        self.signal = signal
        self.seen_users: int | None = None

    def scores(self, rows: Int64, lengths: Int64, side: Float32) -> tuple[Float32, Float32]:
        last = rows[np.arange(len(rows)), np.maximum(lengths - 1, 0)]
        ahead = (np.arange(ITEMS)[None, :] - last[:, None]) % ITEMS
        linear = np.where((ahead >= 1) & (ahead <= 2), self.signal, 0.0).astype(np.float32)
        return np.tile(self.popular, (len(rows), 1)), linear


def noise_features(seed: int = 0) -> Float32:
    """Item features [ITEMS, 2] that mean nothing."""
    return np.random.default_rng(seed).normal(size=(ITEMS, 2)).astype(np.float32)
