"""Counting in process, and what a flush hands to Triton."""

from collections import Counter
from typing import Any

from shortlist.serving.metrics import BUCKETS, COUNTERS, STAGE_SECONDS, Flusher, Meter


class FakeFamily:
    """Stands for pb_utils.MetricFamily, which exists only inside Triton's stub."""

    def __init__(self, name: str, totals: Counter[Any]) -> None:
        self.name, self.totals = name, totals

    def Metric(self, labels: dict[str, str]) -> "FakeMetric":  # noqa: N802 - Triton's name
        return FakeMetric((self.name, *sorted(labels.items())), self.totals)


class FakeMetric:
    def __init__(self, key: Any, totals: Counter[Any]) -> None:
        self.key, self.totals = key, totals

    def increment(self, amount: float) -> None:
        self.totals[self.key] += amount


def bucket(stage: str, bound: str) -> Any:
    return f"{STAGE_SECONDS}_bucket", (("stage", stage), ("le", bound))


def test_buckets_are_cumulative() -> None:
    meter = Meter()
    for seconds in (0.0002, 0.002, 100.0):
        meter.observe("rank", seconds, 10, 5)
    increments = meter.drain()
    assert [increments[bucket("rank", str(b))] for b in BUCKETS] == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert increments[bucket("rank", "+Inf")] == 3


def test_a_time_on_a_bound_belongs_below_it() -> None:
    meter = Meter()
    meter.observe("rank", BUCKETS[0], 1, 1)
    assert meter.drain()[bucket("rank", str(BUCKETS[0]))] == 1


def test_items_and_seconds_add_up() -> None:
    meter = Meter()
    meter.observe("filter", 0.25, 500, 100)
    meter.observe("filter", 0.5, 1000, 200)
    label = (("stage", "filter"),)
    increments = meter.drain()
    assert increments["shortlist_candidates_in_total", label] == 1500
    assert increments["shortlist_candidates_out_total", label] == 300
    assert increments[f"{STAGE_SECONDS}_sum", label] == 0.75


def test_draining_starts_again_from_nothing() -> None:
    meter = Meter()
    meter.count("shortlist_errors_total", field="k")
    meter.drain()
    assert meter.drain() == {}


def test_a_fallback_is_not_a_cold_start() -> None:
    meter = Meter()
    meter.answered(Counter({"full": 3, "fallback": 2}), by_popularity=3)
    increments = meter.drain()
    assert increments["shortlist_cold_start_total", ()] == 1
    assert increments["shortlist_requests_total", (("status", "fallback"),)] == 2


def test_stopping_hands_over_what_is_left() -> None:
    totals: Counter[Any] = Counter()
    meter = Meter()
    flusher = Flusher(meter, lambda name, _: FakeFamily(name, totals), interval=60)
    meter.count("shortlist_errors_total", 2, field="k")
    flusher.stop()
    assert totals["shortlist_errors_total", ("field", "k")] == 2


def test_flushes_add_up() -> None:
    totals: Counter[Any] = Counter()
    meter = Meter()
    flusher = Flusher(meter, lambda name, _: FakeFamily(name, totals), interval=60)
    for _ in range(3):
        meter.observe("rank", 0.001, 7, 7)
        flusher.flush()
    flusher.stop()
    assert totals["shortlist_candidates_in_total", ("stage", "rank")] == 21


def test_every_family_that_is_counted_is_declared() -> None:
    meter = Meter()
    meter.observe("rank", 0.001, 7, 7)
    meter.answered(Counter({"full": 1}), by_popularity=1)
    meter.count("shortlist_errors_total", field="k")
    assert {family for family, _ in meter.drain()} == set(COUNTERS)
