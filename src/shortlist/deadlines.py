"""How much of the cascade still fits into a request's remaining time, by the measured cost of each stage."""

from __future__ import annotations

from shortlist.errors import DeadlineError
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK, Request

SMOOTHING = 0.1  # weight of the newest measurement
HEADROOM = 1.5  # a stage is expected to take this much longer than its average


class StageCosts:
    """Exponentially smoothed seconds a batch spends in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def observe(self, stage: str, seconds: float) -> None:
        """Take in one measurement."""
        before = self.seconds.get(stage, seconds)
        self.seconds[stage] = before + SMOOTHING * (seconds - before)

    def plan(self, request: Request, now_us: int) -> str:
        """The fullest status that fits. Raises DeadlineError when the deadline has passed."""
        if request.deadline_unix_us is None:
            return FULL
        left = (request.deadline_unix_us - now_us) / 1e6
        if left <= 0:
            raise DeadlineError(
                f"deadline_unix_us = {request.deadline_unix_us} passed {-left * 1e3:.1f} ms ago; send a later one"
            )
        for status, stages in (
            (FULL, ("users", "retrieve", "filter", "rank", "diversify")),
            (NO_RANK, ("users", "retrieve", "filter", "diversify")),
            (NO_FILTER, ("users", "retrieve", "diversify")),
        ):
            if left >= HEADROOM * sum(self.seconds.get(stage, 0.0) for stage in stages):
                return status
        return FALLBACK
