"""Counting in process, and what a flush hands to Triton."""

import time
from collections import Counter
from typing import Any

from shortlist.serving.metrics import (
    BATCH_SIZE,
    BUCKETS,
    CACHE_ASKED,
    CACHE_HITS,
    COUNTERS,
    CPU_SECONDS,
    EFFORT,
    PREDICATE_HITS,
    PREDICATES_COMPILED,
    REPAIRS,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    Flusher,
    Meter,
)


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
    meter.observe("rank", 0.001, 7, 7)
    meter.executed(3, 0.001)
    meter.drain()
    assert set(meter.drain().values()) == {0}


def test_a_fallback_is_not_a_cold_start() -> None:
    meter = Meter()
    meter.answered(Counter({("full", 1.0): 3, ("fallback", 0.25): 2}), by_popularity=3)
    increments = meter.drain()
    assert increments["shortlist_cold_start_total", ()] == 1
    assert increments["shortlist_requests_total", (("status", "fallback"),)] == 2


def test_answers_are_counted_by_effort() -> None:
    meter = Meter()
    meter.answered(Counter({("full", 0.5): 3, ("no_rank", 0.5): 1, ("full", 1.0): 2}), by_popularity=0)
    increments = meter.drain()
    assert increments[EFFORT, (("share", "0.5"),)] == 4
    assert increments[EFFORT, (("share", "1"),)] == 2


def test_a_batch_counts_once_by_size_and_for_each_request_by_time() -> None:
    meter = Meter()
    meter.executed(5, 0.002)
    increments = meter.drain()
    assert increments[f"{BATCH_SIZE}_count", ()] == 1
    assert increments[f"{BATCH_SIZE}_bucket", (("le", "4"),)] == 0
    assert increments[f"{BATCH_SIZE}_bucket", (("le", "8"),)] == 1
    assert increments[f"{REQUEST_SECONDS}_bucket", (("le", "0.0025"),)] == 5


def test_a_total_is_followed_from_where_it_stood() -> None:
    meter, total = Meter(), [100]
    meter.follow(CACHE_HITS, lambda: total[0])
    total[0] = 103
    assert meter.drain()[CACHE_HITS, ()] == 3
    assert meter.drain()[CACHE_HITS, ()] == 0


def test_what_may_go_wrong_is_there_from_the_beginning() -> None:
    increments = Meter(["k"]).drain()
    assert increments["shortlist_requests_total", (("status", "fallback"),)] == 0
    assert increments["shortlist_errors_total", (("field", "k"),)] == 0


def test_stopping_hands_over_what_is_left() -> None:
    totals: Counter[Any] = Counter()
    meter = Meter()
    flusher = Flusher(meter, lambda name, _: FakeFamily(name, totals), interval=60)
    meter.count("shortlist_errors_total", 2, field="k")
    flusher.stop()
    assert totals["shortlist_errors_total", ("field", "k")] == 2


def test_a_thread_flushes_once_started() -> None:
    totals: Counter[Any] = Counter()
    meter = Meter()
    flusher = Flusher(meter, lambda name, _: FakeFamily(name, totals), interval=0.01)
    meter.count("shortlist_errors_total", 2, field="k")
    flusher.start()
    until = time.monotonic() + 10
    while not totals["shortlist_errors_total", ("field", "k")] and time.monotonic() < until:
        time.sleep(0.01)
    assert totals["shortlist_errors_total", ("field", "k")] == 2
    flusher.stop()


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
    meter.answered(Counter({("full", 1.0): 1}), by_popularity=1)
    meter.count("shortlist_errors_total", field="k")
    for family in (CACHE_ASKED, CACHE_HITS, CPU_SECONDS, PREDICATE_HITS, PREDICATES_COMPILED):
        meter.follow(family, lambda: 0)
    assert {family for family, _ in meter.drain()} == set(COUNTERS) - {REPAIRS}
