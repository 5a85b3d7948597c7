"""How much of the cascade still fits into a request's remaining time, by the measured cost of each stage."""

from __future__ import annotations

from shortlist.errors import DeadlineError
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK, Request

SMOOTHING = 0.1  # weight of the newest measurement
HEADROOM = 1.5  # a stage is expected to take this much longer than its average
FORGETTING = 0.01  # share by which a stage's cost shrinks with each batch that leaves it out

STAGES: dict[str, tuple[str, ...]] = {  # what runs under each status, the fullest first
    FULL: ("users", "retrieve", "filter", "rank", "diversify"),
    NO_RANK: ("users", "retrieve", "filter", "diversify"),
    NO_FILTER: ("users", "retrieve", "diversify"),
    FALLBACK: ("users", "diversify"),
}


class StageCosts:
    """Exponentially smoothed seconds a batch spends in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._left_out: dict[str, int] = {}  # stage -> batches without it since it was last measured

    def observe(self, stage: str, seconds: float) -> None:
        """Take in one measurement; it weighs as much as those that were missed since the last."""
        before = self.seconds.get(stage, seconds)
        weight = 1 - (1 - SMOOTHING) ** (1 + self._left_out.pop(stage, 0))
        self.seconds[stage] = before + weight * (seconds - before)

    def leave_out(self, plan: str) -> None:
        """A batch runs under `plan`: what it leaves out is tried again in time, however slow it once was."""
        for stage in STAGES[FULL]:
            if stage not in STAGES[plan] and stage in self.seconds:
                self.seconds[stage] *= 1 - FORGETTING
                self._left_out[stage] = self._left_out.get(stage, 0) + 1

    def plan(self, request: Request, now_us: int) -> str:
        """The fullest status that fits. Raises DeadlineError when the deadline has passed."""
        if request.deadline_unix_us is None:
            return FULL
        left = (request.deadline_unix_us - now_us) / 1e6
        if left <= 0:
            raise DeadlineError(
                f"deadline_unix_us = {request.deadline_unix_us} passed {-left * 1e3:.1f} ms ago; send a later one"
            )
        fitting = (
            status
            for status, stages in STAGES.items()
            if left >= HEADROOM * sum(self.seconds.get(stage, 0.0) for stage in stages)
        )
        return next(fitting, FALLBACK)
