"""How much of the cascade a batch can have: as much as fits the deadlines and the load, by measured cost.

A batch grows with the load, since Triton hands over all that waits; so the cost of the whole batch, foretold from what
each stage was measured to take, stands for the load. Whatever does not fit gets less effort: first fewer cells, fewer
candidates and a shorter rank depth, and where a deadline demands it stages are left out. The answers of a batch leave
together, so it has one effort. What to do with an effort is the cascade's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shortlist.errors import DeadlineError
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK, Request

SMOOTHING = 0.1  # weight of the newest measurement
SURPRISE = 5.0  # one measurement counts as no more than so many times the ones before: a hiccup is no trend
HEADROOM = 1.5  # a batch is expected to take this much longer than foretold
DEVIATIONS = 3.0  # the way back is expected to take so many mean deviations longer than its mean
FORGETTING = 0.01  # share of what was measured that fades with each batch that does not measure it
WAY_BACK, WAY_BACK_EACH = 0.5e-3, 0.1e-3  # seconds of the way back, and for each request, before it was measured

SEGMENT = "segment"  # the stage that stands in for retrieval, where there are lists of segments

STAGES: dict[str, tuple[str, ...]] = {  # what runs under each status, the fullest first
    FULL: ("users", "retrieve", "filter", "rank", "diversify"),
    NO_RANK: ("users", "retrieve", "filter", "diversify"),
    NO_FILTER: ("users", "retrieve", "diversify"),
    FALLBACK: ("users", SEGMENT, "diversify"),
}
LEFT_OUT = {status: tuple(s for s in (*STAGES[FULL], SEGMENT) if s not in of) for status, of in STAGES.items()}
WORTH = {FULL: 1.0, NO_RANK: 0.9, NO_FILTER: 0.8, FALLBACK: 0.6}  # of an answer; a light FULL is between two of them


@dataclass(frozen=True, slots=True)
class Effort:
    """What a request gets: the stages of `status`, with `share` of the cells, candidates and rank depth."""

    status: str
    share: float

    def of(self, most: int, least: int = 1) -> int:
        """The share of `most`, but no less than `least`."""
        return max(least, round(self.share * most))

    @property
    def worth(self) -> float:
        """What an answer with this effort is worth; a refusal is worth nothing."""
        return WORTH[self.status] - (0.05 * (1 - self.share) if self.status == FULL else 0)


def ladder(shares: Sequence[float]) -> tuple[Effort, ...]:
    """Every effort, the fullest first: stages are left out only where the smallest of `shares` does not fit."""
    light = shares[-1]
    return (*(Effort(FULL, s) for s in shares), *(Effort(status, light) for status in (NO_RANK, NO_FILTER, FALLBACK)))


@dataclass(slots=True)
class StageCost:
    """Seconds that a stage takes of a batch: `fixed + each · requests`, at full effort, times how slow it is now."""

    fixed: float
    each: float
    slow: float = 1.0
    left_out: int = 0  # batches without it since it was last measured

    def observe(self, seconds: float, work: float) -> None:
        """Take in one measurement; it weighs as much as those that were missed since the last."""
        expected = self.fixed + self.each * work
        if expected > 0:
            weight = 1 - (1 - SMOOTHING) ** (1 + self.left_out) if self.left_out else SMOOTHING
            self.left_out = 0
            self.slow += weight * (min(seconds / expected, SURPRISE * max(1.0, self.slow)) - self.slow)

    def skip(self) -> None:
        """A batch leaves the stage out: it is tried again in time, however slow it once was."""
        self.slow *= 1 - FORGETTING
        self.left_out += 1


class WayBack:
    """Seconds from the last stage of a batch until its answers are with their clients, all of them.

    A server cannot see that. It sees when Triton hands over the next batch, which Triton does when it has sent every
    answer of the one before; so while requests wait, the pause between two batches is the way back. It is kept for
    batches of about the same size: 1, 2 and 3, 4 to 7 …
    """

    def __init__(self) -> None:
        self._mean: dict[int, float] = {}
        self._deviation: dict[int, float] = {}

    def observe(self, pause: float, requests: int, following: int) -> None:
        """Take in the `pause` between a batch of `requests` and one of `following`, to which a part of it belongs.

        A batch of one did not wait for the one before: for a part of the pause there was nothing to do.
        """
        size, pause = requests.bit_length(), pause * min(1.0, 2 * requests / (requests + following))
        mean, deviation = self._of(size)
        if following > 1 or pause < mean:
            off = min(pause, SURPRISE * mean) - mean
            self._mean[size] = mean + SMOOTHING * off
            self._deviation[size] = deviation + SMOOTHING * (abs(off) - deviation)
        for other in self._mean.keys() - {size}:
            mean, deviation = self._of(other)
            usual = _usual(other)
            self._mean[other] = mean + FORGETTING * (usual - mean)
            self._deviation[other] = deviation + FORGETTING * (usual / 3 - deviation)

    def seconds(self, requests: int, deviations: float = DEVIATIONS) -> float:
        """How long it may take for a batch of `requests`."""
        mean, deviation = self._of(requests.bit_length())
        return mean + deviations * deviation

    def _of(self, size: int) -> tuple[float, float]:
        """Mean and mean deviation."""
        usual = _usual(size)
        return self._mean.get(size, usual), self._deviation.get(size, usual / 3)


def _usual(size: int) -> float:
    """The way back of a batch of less than 2 ** size requests, before it was measured."""
    return WAY_BACK + WAY_BACK_EACH * (1 << size)


@dataclass
class Costs:
    """Measured costs of the stages, and the effort that a batch can have for them.

    `efforts` are the fullest first; load makes them lighter until a batch fits into `batch_seconds`.
    """

    efforts: tuple[Effort, ...]
    batch_seconds: float = math.inf
    stages: dict[str, StageCost] = field(default_factory=dict)
    way_back: WayBack = field(default_factory=WayBack)

    def measured(self, alone: dict[str, float], together: dict[str, float], requests: int) -> None:
        """Start from the seconds of each stage for one request, and for a batch of `requests`, at full effort."""
        for stage, seconds in together.items():
            each = max(0.0, seconds - alone[stage]) / (requests - 1)
            self.stages[stage] = StageCost(max(0.0, alone[stage] - each), each)

    def observe(self, stage: str, seconds: float, requests: int, effort: Effort) -> None:
        """Take in what one stage of one batch took."""
        if cost := self.stages.get(stage):
            cost.observe(seconds, requests if stage == "users" else requests * effort.share)

    def like(self, stage: str, other: str) -> None:
        """Take a stage that comes while requests are answered to cost what another does, until it is measured."""
        if cost := self.stages.get(other):
            self.stages[stage] = StageCost(cost.fixed, cost.each, cost.slow)

    def forget(self, stage: str) -> None:
        """The stage is no more."""
        self.stages.pop(stage, None)

    def leave_out(self, effort: Effort) -> None:
        """A batch runs with `effort`."""
        for stage in LEFT_OUT[effort.status]:
            if cost := self.stages.get(stage):
                cost.skip()

    def seconds(self, effort: Effort, requests: int) -> float:
        """What a batch of `requests` takes with `effort`, by what was measured last, with headroom."""
        fixed, each = self._line(effort)
        return fixed + each * requests

    def plan(self, requests: Sequence[Request], now_us: int) -> list[Effort | DeadlineError]:
        """The effort of a batch, as full as fits its deadlines and the load, for each request that it answers in time.

        A DeadlineError for every other: its deadline has passed, would pass before even the least is answered, or
        could be kept only if all the others got less than that is worth.
        """
        if not any([r.deadline_unix_us for r in requests]):
            return [self._choose([math.inf] * len(requests))[0]] * len(requests)
        left = [math.inf if r.deadline_unix_us is None else (r.deadline_unix_us - now_us) / 1e6 for r in requests]
        after = self.way_back.seconds(len(requests))
        effort, kept = self._choose(sorted((s - after for s in left if s > 0), reverse=True))
        needed = after + self.seconds(effort, max(1, kept))
        if not kept:
            self._refuse_all()
        return [effort if s >= needed else _refusal(r, s, needed) for r, s in zip(requests, left, strict=True)]

    def late(self, requests: Sequence[Request], now_us: int) -> list[DeadlineError | None]:
        """For each request of a batch that has run: the error, where its answer can only arrive late."""
        back = self.way_back.seconds(len(requests), deviations=0)
        return [
            None
            if r.deadline_unix_us is None or (left := (r.deadline_unix_us - now_us) / 1e6) >= back
            else _refusal(r, left, back)
            for r in requests
        ]

    def _choose(self, times: Sequence[float]) -> tuple[Effort, int]:
        """The effort that is worth most, and how many requests it answers; `times` are theirs, the longest first."""
        best, answered = self.efforts[-1], 0
        lightest = [e for e in self.efforts if e.status == FULL][-1]  # load alone leaves no stage out
        for effort in self.efforts:
            fixed, each = self._line(effort)
            kept = next((n for n in range(len(times), 0, -1) if fixed + each * n <= times[n - 1]), 0)
            fits = fixed + each * kept <= self.batch_seconds or effort == lightest or effort.status != FULL
            if fits and effort.worth * kept > best.worth * answered:
                best, answered = effort, kept
            if answered == len(times):
                break  # whatever follows is worth less
        return best, answered

    def _line(self, effort: Effort) -> tuple[float, float]:
        """Seconds of a batch with `effort`: fixed, and for each request; with headroom."""
        fixed = each = 0.0
        for stage in STAGES[effort.status]:
            if cost := self.stages.get(stage):
                fixed += cost.slow * cost.fixed
                each += cost.slow * cost.each * (1.0 if stage == "users" else effort.share)
        return HEADROOM * fixed, HEADROOM * each

    def _refuse_all(self) -> None:
        for cost in [*self.stages.values()]:  # another thread may add one
            cost.skip()


def _refusal(request: Request, left: float, needed: float) -> DeadlineError:
    if left <= 0:
        why = f"passed {abs(left) * 1e3:.1f} ms ago"
    else:
        why = f"is {left * 1e3:.1f} ms away; at this load an answer takes {needed * 1e3:.1f} ms"
    return DeadlineError(f"deadline_unix_us = {request.deadline_unix_us} {why}; send a later one")
