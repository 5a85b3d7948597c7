"""Our own metrics on Triton's metrics endpoint: counted in process, handed to Triton by a thread.

A call into Triton's metric API is a round trip between processes (20-85 µs), so the request's path only adds to a
dictionary. Histograms are written as Prometheus lays them out on the wire (`_bucket`, `_sum`, `_count`, cumulative),
made of counters: a flush costs the same whether one request or ten thousand came since the last one. Equal labels of
several instances add up in Triton.
"""

from __future__ import annotations

import bisect
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from shortlist.types import FALLBACK

BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)  # seconds
STAGE_SECONDS = "shortlist_stage_duration_seconds"
COUNTERS = {
    f"{STAGE_SECONDS}_bucket": "Batches whose stage took at most `le` seconds",
    f"{STAGE_SECONDS}_sum": "Seconds spent in a stage",
    f"{STAGE_SECONDS}_count": "Batches that went through a stage",
    "shortlist_candidates_in_total": "Items that a stage was given",
    "shortlist_candidates_out_total": "Items that a stage passed on",
    "shortlist_requests_total": "Requests answered with a slate, by status",
    "shortlist_cold_start_total": "Requests answered by popularity, for want of a history",
    "shortlist_errors_total": "Requests refused, by the field that was wrong",
}
Key = tuple[str, tuple[tuple[str, str], ...]]  # family, labels


class Meter:
    """Counts since the last flush. `observe` has the signature of the cascade's observer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Key] = Counter()
        self._stages: dict[str, list[float]] = {}  # stage -> [seconds, in, out, batches at each bucket …]

    def observe(self, stage: str, seconds: float, items_in: int, items_out: int) -> None:
        """Take in one stage of one batch."""
        with self._lock:
            row = self._stages.get(stage)
            if row is None:
                row = self._stages[stage] = [0.0] * (len(BUCKETS) + 4)
            row[0] += seconds
            row[1] += items_in
            row[2] += items_out
            row[3 + bisect.bisect_left(BUCKETS, seconds)] += 1

    def count(self, family: str, amount: int = 1, **labels: str) -> None:
        """Add `amount` to one counter."""
        with self._lock:
            self._counts[family, tuple(labels.items())] += amount

    def answered(self, statuses: Counter[str], by_popularity: int) -> None:
        """Take in the slates of one batch: how many of each status, and how many popularity answered."""
        for status, amount in statuses.items():
            self.count("shortlist_requests_total", amount, status=status)
        if cold := by_popularity - statuses[FALLBACK]:
            self.count("shortlist_cold_start_total", cold)

    def drain(self) -> dict[Key, float]:
        """Everything counted since the last drain, as increments of Triton counters."""
        with self._lock:
            increments: dict[Key, float] = dict(self._counts)
            stages, self._stages, self._counts = self._stages, {}, Counter()
        for stage, (seconds, items_in, items_out, *at_bucket) in stages.items():
            label = (("stage", stage),)
            increments[f"{STAGE_SECONDS}_sum", label] = seconds
            increments[f"{STAGE_SECONDS}_count", label] = sum(at_bucket)
            increments["shortlist_candidates_in_total", label] = items_in
            increments["shortlist_candidates_out_total", label] = items_out
            below = 0.0
            for bound, batches in zip([*map(str, BUCKETS), "+Inf"], at_bucket, strict=True):
                below += batches
                increments[f"{STAGE_SECONDS}_bucket", (*label, ("le", bound))] = below
        return increments


class Flusher:
    """The thread that carries a Meter's counts into Triton once every `interval` seconds."""

    def __init__(self, meter: Meter, make_family: Callable[[str, str], Any], interval: float = 1.0) -> None:
        """`make_family(name, help)` gives a pb_utils.MetricFamily of kind COUNTER."""
        self.meter = meter
        self._families = {name: make_family(name, text) for name, text in COUNTERS.items()}
        self._metrics: dict[Key, Any] = {}
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shortlist-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Flush once more and end the thread."""
        self._stopped.set()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Hand over what was counted since the last flush."""
        for key, amount in self.meter.drain().items():
            if key not in self._metrics:
                family, labels = key
                self._metrics[key] = self._families[family].Metric(labels=dict(labels))
            if amount:
                self._metrics[key].increment(amount)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - Triton's metric API may fail; the next flush must still come
                traceback.print_exc()
