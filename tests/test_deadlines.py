"""Stages are left out, dearest last, as the remaining time shrinks."""

import pytest

from shortlist.deadlines import StageCosts
from shortlist.errors import DeadlineError
from shortlist.types import Request


@pytest.fixture
def costs() -> StageCosts:
    costs = StageCosts()
    for stage, seconds in {
        "users": 0.001,
        "retrieve": 0.002,
        "filter": 0.003,
        "rank": 0.01,
        "diversify": 0.001,
    }.items():
        costs.observe(stage, seconds)
    return costs


@pytest.mark.parametrize(
    ("left_ms", "plan"), [(100, "full"), (20, "no_rank"), (8, "no_filter"), (2, "fallback")], ids=str
)
def test_plan_follows_the_time_left(costs: StageCosts, left_ms: int, plan: str) -> None:
    assert costs.plan(Request(deadline_unix_us=1_000_000 + left_ms * 1000), now_us=1_000_000) == plan


def test_without_a_deadline_everything_runs(costs: StageCosts) -> None:
    assert costs.plan(Request(), now_us=0) == "full"


def test_an_expired_request_is_refused(costs: StageCosts) -> None:
    with pytest.raises(DeadlineError, match=r"deadline_unix_us = 500000 passed 500\.0 ms ago"):
        costs.plan(Request(deadline_unix_us=500_000), now_us=1_000_000)


def test_one_slow_moment_does_not_leave_a_stage_out_for_good(costs: StageCosts) -> None:
    costs.observe("rank", 1.0)
    request, batches = Request(deadline_unix_us=60_000), 0
    while costs.plan(request, now_us=0) != "full":
        costs.leave_out("no_rank")
        batches += 1
    assert 50 < batches < 200
    costs.observe("rank", 0.01)
    assert costs.seconds["rank"] == pytest.approx(0.01, rel=0.01)
    assert costs.seconds["filter"] == 0.003


def test_a_stage_that_stays_too_slow_is_tried_rarely(costs: StageCosts) -> None:
    request, tries = Request(deadline_unix_us=15_000), 0
    for _ in range(1000):
        plan = costs.plan(request, now_us=0)
        costs.leave_out(plan)
        if plan == "full":
            tries += 1
            costs.observe("rank", 0.03)
    assert 1 <= tries <= 10


def test_costs_follow_new_measurements(costs: StageCosts) -> None:
    for _ in range(100):
        costs.observe("rank", 0.05)
    assert costs.seconds["rank"] == pytest.approx(0.05, rel=0.01)
