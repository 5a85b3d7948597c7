"""What an instance of `cascade` takes from a store besides its bundle: profiles, changes of items, slates, segments.

Only the wiring, and only imported where there is a store: each part is a module of its own. Metrics of them are counted
in the instance's Meter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from shortlist.cascade import Cascade
from shortlist.profiles import PATIENCE_MS, PRECOMPUTED, PRECOMPUTED_OUTCOMES
from shortlist.profiles.live import FRESH, PATIENCE, READ, LiveProfiles
from shortlist.profiles.precomputed import Precomputed
from shortlist.serving.metrics import (
    FRESHNESS,
    ITEMS_BROKEN,
    MADE_AGE,
    MADE_BEFOREHAND,
    PROFILE_SECONDS,
    PROFILES,
    Meter,
)
from shortlist.serving.offer import ItemFollower
from shortlist.serving.segment_watch import SegmentWatch
from shortlist.slates import Recommend

DELAYS = {READ: PROFILE_SECONDS, FRESH: FRESHNESS}


class FromStore:
    """The store at a URL, before one cascade: `recommend` is its own, for people as they are now."""

    def __init__(
        self,
        url: str,
        cascade: Cascade,
        recommend: Recommend,
        meter: Meter,
        environment: Mapping[str, str],
        say: Callable[[str], object],
    ) -> None:
        """Before `recommend`, which is the cascade's or a cache's. `say` is told, in a line, what ails the offer.

        Raises ConfigError for an impossible URL.
        """
        self._url, self._cascade, self._meter = url, cascade, meter
        self._following: list[ItemFollower | SegmentWatch] = []
        if cascade.assortment:
            items = ItemFollower(url, cascade.assortment, say)
            meter.follow(ITEMS_BROKEN, lambda: items.broken)
            self._follow(items)
        live = LiveProfiles(
            recommend,
            url,
            cascade.users.known_until_ms,
            lambda what, seconds: meter.took(DELAYS[what], seconds),
            self._precomputed() if environment.get(PRECOMPUTED) else None,
            float(environment.get(PATIENCE_MS, 1e3 * PATIENCE)) / 1e3,
        )
        for outcome in live.outcomes:
            meter.follow(PROFILES, partial(live.outcomes.__getitem__, outcome), outcome=outcome)
        self.recommend: Recommend = live.recommend

    def stop(self) -> None:
        """Follow no further; requests are still answered."""
        for following in self._following:
            following.stop()

    def _precomputed(self) -> Precomputed:
        """Let slates and lists of segments that lie in the store answer where they may."""
        assortment = self._cascade.assortment
        found = Precomputed(self._cascade.version, assortment.allows if assortment else lambda _: True)
        for outcome in PRECOMPUTED_OUTCOMES:
            self._meter.follow(MADE_BEFOREHAND, partial(found.outcomes.__getitem__, outcome), outcome=outcome)
        self._meter.follow(MADE_AGE, lambda: found.age_seconds)
        if self._cascade.device.name == "cpu":
            self._follow(SegmentWatch(self._cascade, self._url))
        return found

    def _follow(self, what: ItemFollower | SegmentWatch) -> None:
        what.start()
        self._following.append(what)
