"""A batch gets less effort as the time that is left shrinks and as it grows; stages are left out, dearest last."""

import pytest

from shortlist.deadlines import Costs, Effort, StageCost, WayBack, ladder
from shortlist.errors import DeadlineError
from shortlist.types import Request

FULL, HALF, NO_RANK, NO_FILTER, FALLBACK = EFFORTS = ladder((1.0, 0.5))
ALONE = {"users": 0.001, "retrieve": 0.002, "filter": 0.003, "rank": 0.010, "diversify": 0.001}
TOGETHER = {stage: 0.2 * seconds + 0.8 * seconds * 16 for stage, seconds in ALONE.items()}  # a fifth is fixed
NOW = 1_000_000


@pytest.fixture
def costs() -> Costs:
    costs = Costs(EFFORTS)
    costs.measured(ALONE, TOGETHER, 16)
    return costs


def _in(left_ms: float | None) -> Request:
    return Request() if left_ms is None else Request(deadline_unix_us=NOW + int(left_ms * 1000))


def _plan(costs: Costs, left_ms: int | None, count: int = 1) -> Effort | DeadlineError:
    return costs.plan([_in(left_ms)] * count, NOW)[0]


@pytest.mark.parametrize(
    ("left_ms", "effort"), [(100, FULL), (20, HALF), (12, NO_RANK), (8, NO_FILTER), (5, FALLBACK)], ids=str
)
def test_effort_follows_the_time_left(costs: Costs, left_ms: int, effort: Effort) -> None:
    assert _plan(costs, left_ms) == effort


def test_a_whole_batch_must_be_in_time(costs: Costs) -> None:
    assert [_plan(costs, 200, count) for count in (1, 12, 15)] == [FULL, HALF, HALF]


def test_without_a_deadline_and_a_limit_everything_runs(costs: Costs) -> None:
    assert _plan(costs, None, 64) == FULL


def test_load_lowers_the_share_but_leaves_no_stage_out(costs: Costs) -> None:
    costs.batch_seconds = 0.1
    assert [_plan(costs, None, count) for count in (1, 5, 64)] == [FULL, HALF, HALF]


@pytest.mark.parametrize("left_ms", [-500, 0])
def test_an_expired_request_is_refused(costs: Costs, left_ms: int) -> None:
    with pytest.raises(DeadlineError, match=rf"deadline_unix_us = {1000 + left_ms}000 passed {-left_ms}\.0 ms ago"):
        raise _plan(costs, left_ms)  # type: ignore[misc]


def test_what_would_be_late_is_refused(costs: Costs) -> None:
    with pytest.raises(DeadlineError, match=r"is 2\.0 ms away; at this load an answer takes"):
        raise _plan(costs, 2, 16)  # type: ignore[misc]


def test_nobody_waits_for_the_fuller_answer_of_another(costs: Costs) -> None:
    assert costs.plan([_in(None), _in(12)], NOW) == [NO_FILTER, NO_FILTER]


def test_one_in_haste_does_not_make_the_answers_of_many_poor(costs: Costs) -> None:
    *many, hasty = costs.plan([_in(1000)] * 10 + [_in(12)], NOW)
    assert many == [FULL] * 10
    assert isinstance(hasty, DeadlineError)


def test_the_expired_make_no_batch_larger(costs: Costs) -> None:
    *others, alive = costs.plan([_in(-1)] * 60 + [_in(60)], NOW)
    assert alive == FULL
    assert all(isinstance(o, DeadlineError) for o in others)


def test_an_answer_that_can_only_arrive_late_is_refused(costs: Costs) -> None:
    found = costs.late([_in(None), _in(1000), _in(0.1), _in(-5)], NOW)
    assert [error is None for error in found] == [True, True, False, False]


def test_a_hiccup_of_one_stage_is_no_trend(costs: Costs) -> None:
    costs.observe("rank", 1.0, 1, FULL)
    assert _plan(costs, 60) == FULL


def test_a_stage_that_became_slow_is_tried_again_in_time(costs: Costs) -> None:
    costs.stages["rank"].slow = 5.0
    batches = 0
    while _plan(costs, 60) != FULL:
        costs.leave_out(NO_RANK)
        batches += 1
    assert 10 < batches < 200
    assert costs.stages["filter"].slow == 1


def test_a_server_that_refused_everything_answers_again(costs: Costs) -> None:
    costs.stages["users"].slow = 1000.0  # part of every answer
    batches = 0
    while isinstance(_plan(costs, 60), DeadlineError):
        batches += 1
    assert 10 < batches < 1000


def test_a_stage_that_stays_too_slow_is_tried_rarely(costs: Costs) -> None:
    tries = 0
    for _ in range(1000):
        effort = _plan(costs, 17)
        assert isinstance(effort, Effort)
        costs.leave_out(effort)
        if effort.status == "full":
            tries += 1
            costs.observe("rank", 0.06 * effort.share, 1, effort)
    assert 1 <= tries <= 40


def test_costs_follow_new_measurements_of_any_batch(costs: Costs) -> None:
    for _ in range(100):
        costs.observe("rank", 5 * (0.002 + 0.008 * 8), 16, HALF)
    assert costs.stages["rank"].slow == pytest.approx(5, rel=0.01)


def test_the_way_back_is_measured_while_requests_wait() -> None:
    way = WayBack()
    for _ in range(100):
        way.observe(0.02, requests=60, following=60)
    assert way.seconds(60) == pytest.approx(0.02, rel=0.01)
    assert way.seconds(2) < 0.005


def test_a_pause_in_which_nobody_waited_says_nothing() -> None:
    way, usual = WayBack(), WayBack().seconds(60)
    way.observe(100.0, requests=60, following=1)
    assert way.seconds(60) == usual


def test_a_slow_way_back_is_forgotten() -> None:
    way, usual = WayBack(), WayBack().seconds(60)
    for _ in range(20):
        way.observe(10.0, requests=60, following=60)
    for _ in range(1000):
        way.observe(0.0003, requests=1, following=1)
    assert way.seconds(60) == pytest.approx(usual, rel=0.1)


def test_a_stage_may_come_while_everything_is_refused(costs: Costs) -> None:
    class Late(StageCost):
        def skip(self) -> None:
            costs.like("segment", "rank")

    costs.stages["users"] = Late(1000.0, 0.0)
    assert isinstance(_plan(costs, 60), DeadlineError)


def test_a_stage_that_is_no_more_costs_nothing(costs: Costs) -> None:
    before = costs.seconds(FALLBACK, 1)
    costs.like("segment", "rank")
    assert costs.seconds(FALLBACK, 1) > before
    costs.forget("segment")
    assert costs.seconds(FALLBACK, 1) == before
