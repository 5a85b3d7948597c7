"""Tells from outside whether a served cascade answers: by a canary now and then, and by what others are answered.

Triton's readiness says nothing of a Python process that hangs. A canary without an answer does not either, as long as
others get theirs: the server is busy. What is done about trouble is the business of `supervisor`.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from shortlist.serving.control import Control
from shortlist.serving.tensors import CASCADE
from shortlist.serving.watch import Watch

_ALIVE_CODES = ("INVALID_ARGUMENT", "CANCELLED")  # a refusal proves that the stub executes
_SLOW_CODES = ("DEADLINE_EXCEEDED", "UNKNOWN")


class Trouble(NamedTuple):
    """What is wrong, and with whom."""

    why: str
    server: bool = False  # the server itself is silent, not only its model
    hung: bool = False  # the model's processes live, and would never end by themselves


class Pulse:
    """What was heard of the cascade of one server."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._answered: int | None = None  # requests answered at the last canary that got no answer
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for a canary."""
        return time.monotonic() >= self._next

    def rest(self) -> None:
        """Let the usual time pass before the next canary."""
        self._next = time.monotonic() + self._watch.canary_every

    def forget(self) -> None:
        """Count anew: the model was loaded, and its count with it."""
        self._answered = None

    def trouble(self, control: Control) -> Trouble | None:
        """What a canary finds wrong; None when it is answered, or others may still be."""
        code = control.canary(self._watch.canary_timeout)
        if code is None or code in _ALIVE_CODES:
            self._answered = None
            return None
        if not control.live():
            return Trouble("the server does not answer", server=True)
        if code in _SLOW_CODES:
            return self._stalled(control)
        return Trouble(f"the canary failed ({code})")

    def _stalled(self, control: Control) -> Trouble | None:
        """After a canary without an answer: as long as others get answers, the server is busy, not dead."""
        answered = control.answered(CASCADE.name)
        if answered is not None and answered == self._answered:
            return Trouble("no request is answered", hung=True)
        self._answered = answered
        self._next = time.monotonic()
        return None

    def beats(self, control: Control) -> bool:
        """Whether the canary is answered, or others were since the last look."""
        code = control.canary(self._watch.canary_timeout)
        before, self._answered = self._answered, control.answered(CASCADE.name)
        return code in (None, *_ALIVE_CODES) or (code in _SLOW_CODES and self._answered not in (None, before))
