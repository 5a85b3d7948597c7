"""Follows the store's stream of item changes from a thread, so that an instance offers what is on offer now.

Now and then it also looks at what is taken to, where the bundle wants its popularity lists to move with that.

A change is seen by requests some milliseconds after it was written. A store that cannot be reached changes nothing:
what was on offer stays, and is read anew once the store answers; entries that nobody can read are passed over. The
stream is `shortlist.events.items`', what an instance makes of it `shortlist.stages.assortment`'s.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from shortlist.events.items import MOST_ADDED, ItemChange, ItemStore, MissedError, Place
from shortlist.profiles.store import StoreError
from shortlist.stages.assortment import Assortment

TRENDS_EVERY = 10.0  # seconds between two looks at what is taken to now
WAIT = 0.5  # seconds that the store holds a question whose answer is nothing, and so that stopping takes
AGAIN_AFTER = 0.5  # seconds between two tries to reach a store that failed
PATIENCE = 2.0  # seconds for an answer


class ItemFollower:
    """Keeps an assortment as the store says. Between `start` and `stop` nobody else may change it."""

    def __init__(self, url: str, assortment: Assortment, say: Callable[[str], object]) -> None:
        """`say` is told, in a line, of what goes wrong. Raises ConfigError for an impossible URL."""
        self.broken = 0  # entries that were passed over, each as often as it was read
        self._store = ItemStore(url, PATIENCE, self._pass_over)
        self._assortment, self._say = assortment, say
        self._told: set[bytes] = set()  # whose entries were told to be broken
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shortlist-items", daemon=True)
        self._refused: dict[bytes, str] = {}
        self._failure = ""
        self._place: Place | None = None  # None: the state has to be read
        self._trends_read = -math.inf

    def start(self) -> None:
        """Read the state, if the store answers, and follow it from now on."""
        self._step(0.0)
        self._thread.start()

    def stop(self) -> None:
        """Follow no further."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._store.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._step(WAIT):
                self._stopped.wait(AGAIN_AFTER)

    def _step(self, wait_s: float) -> bool:
        """Take in what there is to know. Whether the store answered."""
        try:
            if self._place is None:
                self._place, state = self._store.state()
                self._assortment.replace(state.removed, state.added)
            else:
                self._place, changes = self._store.follow(self._place, wait_s)
                self._apply(changes)
            self._assortment.publish()
            self._complain()
            self._look_at_trends()
        except MissedError as error:
            self._say(f"{error}; reading all of it again")
            self._place = None
        except StoreError as error:
            if self._place is not None or not self._thread.is_alive():
                self._say(f"items stay on offer as they are: {error}")
            self._place = None
            return False
        except Exception:  # noqa: BLE001 - whatever one change does, the next must still come
            self._fail(traceback.format_exc())
            self._place = None
            return False
        return True

    def _apply(self, changes: Sequence[ItemChange]) -> None:
        for change in changes:
            if change.kind == "add":
                self._assortment.add(change.item_id, change.attributes or {})
            elif change.kind == "remove":
                self._assortment.remove(change.item_id)
            elif change.kind == "restore":
                self._assortment.restore(change.item_id)
            else:
                self._assortment.forget(change.item_id)

    def _pass_over(self, item_id: bytes, why: str) -> None:
        """Count a broken entry; tell the first of each item."""
        self.broken += 1
        if item_id in self._told:
            return
        if len(self._told) >= MOST_ADDED:
            self._told.clear()
        self._told.add(item_id)
        self._say(f"an entry of what is on offer is passed over: {why}")

    def _fail(self, trace: str) -> None:
        """Tell of a failure that nobody foresaw, unless it is the last one again."""
        if trace != self._failure:
            self._say(f"items stay on offer as they are: {trace}")
        self._failure = trace

    def _look_at_trends(self) -> None:
        if self._assortment.trending is None or time.monotonic() < self._trends_read + TRENDS_EVERY:
            return
        self._trends_read = time.monotonic()
        self._assortment.trend(self._store.trends(), time.time_ns() // 1_000_000)

    def _complain(self) -> None:
        """Say once of each new item why it cannot be offered."""
        for item_id, why in self._assortment.refused.items():
            if self._refused.get(item_id) != why:
                self._say(f"new item {item_id.decode(errors='replace')!r} is not offered: {why}")
        self._refused = dict(self._assortment.refused)
