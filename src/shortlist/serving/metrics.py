"""Our own metrics on Triton's metrics endpoint: counted in process, handed to Triton by a thread.

A call into Triton's metric API is a round trip between processes (20-85 µs), so the request's path only adds to a
dictionary. Histograms are written as Prometheus lays them out on the wire (`_bucket`, `_sum`, `_count`, cumulative),
made of counters: a flush costs the same whether one request or ten thousand came since the last one. Equal labels of
several instances add up in Triton. What each metric means to who runs the server is in docs/metrics.md.
"""

from __future__ import annotations

import bisect
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from shortlist.profiles import OUTCOMES, PRECOMPUTED_OUTCOMES
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK, STALE_PROFILE

BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)  # seconds
DELAYS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds from event to answer
SIZES = (1, 2, 4, 8, 16, 32, 64)  # requests of a batch
STAGE_SECONDS = "shortlist_stage_duration_seconds"
REQUEST_SECONDS = "shortlist_request_duration_seconds"
BATCH_SIZE = "shortlist_batch_size"
CANDIDATES_IN, CANDIDATES_OUT = "shortlist_candidates_in_total", "shortlist_candidates_out_total"
REQUESTS, EFFORT = "shortlist_requests_total", "shortlist_answers_by_effort_total"
COLD, ERRORS = "shortlist_cold_start_total", "shortlist_errors_total"
CACHE_ASKED, CACHE_HITS = "shortlist_slate_cache_asked_total", "shortlist_slate_cache_hits_total"
PREDICATE_HITS, PREDICATES_COMPILED = "shortlist_predicate_hits_total", "shortlist_predicates_compiled_total"
PROFILES, PROFILE_SECONDS = "shortlist_profile_reads_total", "shortlist_profile_read_seconds"
FRESHNESS = "shortlist_freshness_seconds"
MADE_BEFOREHAND, MADE_AGE = "shortlist_precomputed_requests_total", "shortlist_precomputed_age_seconds_total"
ITEMS_BROKEN = "shortlist_items_broken_total"
CPU_SECONDS, REPAIRS = "shortlist_cpu_seconds_total", "shortlist_repairs_total"
COUNTERS = {
    f"{STAGE_SECONDS}_bucket": "Batches whose stage took at most `le` seconds",
    f"{STAGE_SECONDS}_sum": "Seconds spent in a stage",
    f"{STAGE_SECONDS}_count": "Batches that went through a stage",
    f"{REQUEST_SECONDS}_bucket": "Requests whose batch took at most `le` seconds in the model, its queue apart",
    f"{REQUEST_SECONDS}_sum": "Seconds that batches took in the model, for each of their requests",
    f"{REQUEST_SECONDS}_count": "Requests that went through the model",
    f"{BATCH_SIZE}_bucket": "Batches of at most `le` requests",
    f"{BATCH_SIZE}_sum": "Requests of all batches",
    f"{BATCH_SIZE}_count": "Batches",
    CANDIDATES_IN: "Items that a stage was given",
    CANDIDATES_OUT: "Items that a stage passed on",
    REQUESTS: "Requests answered with a slate, by status",
    EFFORT: "Requests answered with a slate, by the share of the full effort that went into it",
    COLD: "Requests answered by popularity, for want of a history",
    ERRORS: "Requests refused, by the field that was wrong; `internal` for what failed unforeseen",
    CACHE_ASKED: "Requests for which the slate cache was asked",
    CACHE_HITS: "Requests that the slate cache answered",
    PREDICATE_HITS: "Requests whose predicate was at hand as a bitmap",
    PREDICATES_COMPILED: "Predicates that were made into bitmaps",
    PROFILES: "Requests for which a live profile was wanted, by what came of it",
    f"{PROFILE_SECONDS}_bucket": "Reads of the profile store, one a batch, that took at most `le` seconds",
    f"{PROFILE_SECONDS}_sum": "Seconds spent in reads of the profile store that were answered",
    f"{PROFILE_SECONDS}_count": "Reads of the profile store that were answered",
    f"{FRESHNESS}_bucket": "First answers that reflect a person's newest event, at most `le` seconds after it",
    f"{FRESHNESS}_sum": "Seconds from events to the first answers that reflect them",
    f"{FRESHNESS}_count": "First answers that reflect a person's newest event",
    MADE_BEFOREHAND: "Requests for which a precomputed slate was looked for, by what came of it; `hit` answered",
    MADE_AGE: "Seconds that precomputed slates were old when they answered, all together",
    ITEMS_BROKEN: "Entries of what is on offer that could not be read and were passed over",
    CPU_SECONDS: "CPU seconds of the processes that run cascade, since they were loaded",
    REPAIRS: "What the supervisor did to keep the server answering: restarts of it, reloads of cascade",
}
Key = tuple[str, tuple[tuple[str, str], ...]]  # family, labels


class _Histogram:
    """What was added since the last drain."""

    __slots__ = ("at", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self.at = [0] * (len(bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        self.total += value * times
        self.at[bisect.bisect_left(self.bounds, value)] += times

    def increments(self, family: str, label: tuple[tuple[str, str], ...] = ()) -> dict[Key, float]:
        found: dict[Key, float] = {(f"{family}_sum", label): self.total, (f"{family}_count", label): sum(self.at)}
        below = 0
        for bound, times in zip([*map(str, self.bounds), "+Inf"], self.at, strict=True):
            below += times
            found[f"{family}_bucket", (*label, ("le", bound))] = below
        return found


class _Stage:
    """The same of one stage."""

    __slots__ = ("items_in", "items_out", "seconds")

    def __init__(self) -> None:
        self.seconds = _Histogram(BUCKETS)
        self.items_in = self.items_out = 0


def _delays() -> dict[str, _Histogram]:
    return {PROFILE_SECONDS: _Histogram(BUCKETS), FRESHNESS: _Histogram(DELAYS)}


class Meter:
    """Counts since the last flush. `observe` has the signature of the cascade's observer."""

    def __init__(self, fields: Iterable[str] = ()) -> None:
        """Errors of each of `fields` are counted from 0, so that the first one shows as a rise."""
        self._lock = threading.Lock()
        self._counts: Counter[Key] = Counter()
        self._stages: dict[str, _Stage] = {}
        self._sizes, self._seconds = _Histogram(SIZES), _Histogram(BUCKETS)
        self._delays = _delays()
        self._followed: dict[Key, tuple[Callable[[], float], float]] = {}  # what says a total, and what it said last
        for status in (FULL, NO_RANK, NO_FILTER, FALLBACK, STALE_PROFILE):
            self.count(REQUESTS, 0, status=status)
        for outcome in OUTCOMES:
            self.count(PROFILES, 0, outcome=outcome)
        for outcome in PRECOMPUTED_OUTCOMES:
            self.count(MADE_BEFOREHAND, 0, outcome=outcome)
        self.count(MADE_AGE, 0)
        self.count(ITEMS_BROKEN, 0)
        for field in fields:
            self.count(ERRORS, 0, field=field)
        self.count(COLD, 0)

    def observe(self, stage: str, seconds: float, items_in: int, items_out: int) -> None:
        """Take in one stage of one batch."""
        with self._lock:
            found = self._stages.get(stage)
            if found is None:
                found = self._stages[stage] = _Stage()
            found.seconds.add(seconds)
            found.items_in += items_in
            found.items_out += items_out

    def count(self, family: str, amount: int = 1, **labels: str) -> None:
        """Add `amount` to one counter."""
        with self._lock:
            self._counts[family, tuple(labels.items())] += amount

    def took(self, family: str, seconds: float) -> None:
        """Take in one PROFILE_SECONDS or FRESHNESS."""
        with self._lock:
            self._delays[family].add(seconds)

    def follow(self, family: str, total: Callable[[], float], **labels: str) -> None:
        """At each flush, add to a counter by how much `total()` has grown since now."""
        self._followed[family, tuple(labels.items())] = (total, total())

    def executed(self, requests: int, seconds: float) -> None:
        """Take in one batch of the model: its size, and the time that each of its requests took with it."""
        with self._lock:
            self._sizes.add(requests)
            self._seconds.add(seconds, requests)

    def answered(self, slates: Counter[tuple[str, float]], by_popularity: int) -> None:
        """Take in the slates of one batch: how many of each status and effort, and how many popularity answered, or
        lists of segments in its place."""
        cold = by_popularity
        with self._lock:
            for (status, share), amount in slates.items():
                self._counts[REQUESTS, (("status", status),)] += amount
                self._counts[EFFORT, (("share", f"{share:g}"),)] += amount
                cold -= amount if status == FALLBACK else 0
        if cold > 0:
            self.count(COLD, cold)

    def drain(self) -> dict[Key, float]:
        """Everything counted since the last drain, as increments of Triton counters."""
        with self._lock:
            increments: dict[Key, float] = dict(self._counts)
            stages, self._stages, self._counts = self._stages, {}, Counter()
            sizes, self._sizes = self._sizes, _Histogram(SIZES)
            seconds, self._seconds = self._seconds, _Histogram(BUCKETS)
            delays, self._delays = self._delays, _delays()
        for stage, of in stages.items():
            label = (("stage", stage),)
            increments |= of.seconds.increments(STAGE_SECONDS, label)
            increments[CANDIDATES_IN, label] = of.items_in
            increments[CANDIDATES_OUT, label] = of.items_out
        increments |= sizes.increments(BATCH_SIZE) | seconds.increments(REQUEST_SECONDS)
        for family, delay in delays.items():
            increments |= delay.increments(family)
        for key, (total, last) in list(self._followed.items()):
            now = total()
            self._followed[key] = (total, now)
            increments[key] = now - last
        return increments


class Flusher:
    """Carries a Meter's counts into Triton, from a thread, once every `interval` seconds."""

    def __init__(
        self,
        meter: Meter,
        make_family: Callable[[str, str], Any],
        interval: float = 1.0,
        gauges: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_family(name, help)` gives a pb_utils.MetricFamily of kind COUNTER; `gauges` sets what is no counter."""
        self.meter = meter
        self._families = {name: make_family(name, text) for name, text in COUNTERS.items()}
        self._metrics: dict[Key, Any] = {}
        self._interval = interval
        self._gauges = gauges
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Flush from now on. To be called by the first request: Triton 2.51 can wait for ever for an instance that
        initializes while another of its threads calls Triton.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shortlist-metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Flush once more and end the thread."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Hand over what was counted since the last flush."""
        for key, amount in self.meter.drain().items():
            metric = self.metric(*key)
            if amount:
                metric.increment(amount)
        self._gauges()

    def metric(self, family: str, labels: tuple[tuple[str, str], ...]) -> Any:
        """One counter in Triton, which is there, at 0, from the first call on."""
        if (family, labels) not in self._metrics:
            self._metrics[family, labels] = self._families[family].Metric(labels=dict(labels))
        return self._metrics[family, labels]

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - Triton's metric API may fail; the next flush must still come
                traceback.print_exc()
