"""What is answered while Triton is away: the person's slate that was computed beforehand, then what is popular now.

Both lie in the profile store, put there by `shortlist precompute` and by the consumer. Items that were taken off are
left out; anything else that the cascade would consider is not, which the status `fallback` says.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from valkey.exceptions import ValkeyError

from shortlist.events.items import REMOVED, TRENDING
from shortlist.events.trending import readable
from shortlist.gateway.metrics import STORE_LOST, Metrics
from shortlist.profiles.precomputed import SLATE, floats, read_made

AGAIN_AFTER = 5.0  # seconds that what is popular is taken to stay so
CONSIDERED = 200  # items, before those are left out that must not be shown


class Standby:
    """Slates without a ranking server."""

    def __init__(self, store: Any, metrics: Metrics) -> None:
        """`store` is the profile store's asynchronous client."""
        self._store, self._metrics = store, metrics
        self._popular: list[tuple[str, float]] = []
        self._asked = float("-inf")

    async def slate(self, user: str, exclude: Collection[str], k: int) -> list[tuple[str, float]]:
        """Up to k items and scores, best first; none where the store has none, or is away as well."""
        try:
            own = list(_of_blob(await self._store.get(SLATE + user.encode()))) if user else []
            scored = [(item, score) for item, score in (*own, *await self._trending()) if item not in exclude]
            found = dict(reversed(scored))  # what is in both has its own score, and its own place
            ids = list(dict.fromkeys(item for item, _ in scored))[:CONSIDERED]
            gone = await self._store.smismember(REMOVED, ids) if ids else []
        except (ValkeyError, OSError):
            self._metrics.count(STORE_LOST)
            return []
        return [(item, found[item]) for item, is_gone in zip(ids, gone, strict=True) if not is_gone][:k]

    async def _trending(self) -> list[tuple[str, float]]:
        if time.monotonic() > self._asked + AGAIN_AFTER:
            self._popular = popular(await self._store.hvals(TRENDING))
            self._asked = time.monotonic()
        return self._popular


def popular(documents: Collection[bytes]) -> list[tuple[str, float]]:
    """Items by their share of the longer window's events, the most popular first, from the counts of all partitions."""
    counts: Counter[str] = Counter()
    read = readable(documents)
    now_ms = max((document["at_ms"] for document in read), default=0)
    for document in read:
        worth = 2.0 ** ((document["at_ms"] - now_ms) / (1000 * document["half_lives_s"][-1]))
        for item, *windows in document["items"]:
            counts[item] += windows[-1] * worth
    total = sum(counts.values()) or 1.0
    return [(item, count / total) for item, count in counts.most_common(CONSIDERED)]


def _of_blob(blob: bytes | None) -> Iterator[tuple[str, float]]:
    made = read_made(blob)
    if made:
        yield from zip((item.decode() for item in made.items), floats(made.scores).tolist(), strict=True)
