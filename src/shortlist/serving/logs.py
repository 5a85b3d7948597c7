"""What happens, as lines: an instance says which requests failed or were slow, and `shortlist serve` writes all logs.

Instances write an event as one JSON object a line to their standard error, which Triton hands on to the supervisor.
There `Lines` makes either JSON or text of it, of Triton's own log and of the supervisor's words. What is no event is
left out as Triton's chatter. Neither ids of people or items nor any other value of a request is ever written, only its
id and the field that was wrong.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shortlist.errors import DeadlineError, RequestError, ShortlistError
from shortlist.serving.parse import field_of

SLOW_MS = "SHORTLIST_SLOW_MS"  # environment of an instance: batches that take longer are logged
PER_SECOND = 20  # events of one instance
INTERNAL = "internal"  # the field of an error that is nobody's request's fault
_MAX_ID, _MAX_FRAMES = 64, 12
_TRITON = re.compile(r"(?P<level>[IWEF])\d{4} \S+ \d+ (?P<where>\S+:\d+)\] (?P<message>.*)")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
_HARMLESS = ("CudaDriverHelper", "pinned system memory", "DCGM", "NVML")  # said on every machine without a GPU

Fields = Mapping[str, Any]


class RequestLog:
    """What one instance says: failed and slow requests, and what ails the offer; a few a second, and how many more."""

    def __init__(self, process: str, slow_seconds: float = math.inf, write: Callable[[str], object] | None = None):
        """`process` names the instance. `write` takes a line."""
        self.slow_seconds = slow_seconds
        self._process = process
        self._write = write or _to_stderr
        self._second, self._written, self._left_out = 0, 0, 0

    def failed(self, request_id: str, error: ShortlistError) -> None:
        """A request was answered with `error`."""
        if isinstance(error, DeadlineError):
            self._event("late", "warning", request=_short(request_id))
        elif isinstance(error, RequestError):
            self._event("refused", "warning", request=_short(request_id), field=field_of(error))
        else:
            cause = error.__cause__ or error
            self._event("failed", "error", request=_short(request_id), error=type(cause).__name__, stack=_stack(cause))

    def slow(self, request_ids: Sequence[str], seconds: float, stages: Mapping[str, float]) -> None:
        """A batch of these requests took `seconds` in the model; `stages` are seconds too."""
        ids = [_short(i) for i in request_ids]
        of = {stage: _ms(taken) for stage, taken in stages.items()}
        self._event("slow", "warning", requests=ids, ms=_ms(seconds), stages=of)

    def offer(self, message: str) -> None:
        """Something is wrong with what is on offer, or with the store that says it."""
        self._event("offer", "warning", message=message)

    def _event(self, event: str, level: str, **fields: Any) -> None:
        now = time.time()
        if int(now) != self._second:
            self._second, self._written = int(now), 0
        if self._written >= PER_SECOND:
            self._left_out += 1
            return
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        said = {"event": event, "time": _iso(now), "level": level, "process": self._process, **fields}
        self._write(json.dumps({**said, "left_out": left_out} if left_out else said) + "\n")


class Lines:
    """All that `shortlist serve` has to say, as text or as JSON objects, a line each."""

    def __init__(self, write: Callable[[str], object], as_json: bool = False, verbose: bool = False) -> None:
        """`verbose` lets through all of Triton's log, not only its complaints."""
        self._write, self._json, self._verbose = write, as_json, verbose

    def say(self, message: str, event: str = "supervisor", level: str = "info", **fields: Any) -> None:
        """Words of our own; text shows them without the `fields`."""
        said = {"event": event, "time": _iso(time.time()), "level": level, "message": message, **fields}
        self._write(json.dumps(said) if self._json else message)

    def server(self, line: str) -> None:
        """A line of the server's log: an instance's event, or Triton's own words."""
        event = _event_of(line)
        if event:
            self._write(line if self._json else _text(event))
            return
        found = _TRITON.fullmatch(line)
        if not self._verbose and (not found or found["level"] == "I" or any(word in line for word in _HARMLESS)):
            return
        if self._json and found:
            self.say(found["message"], "triton", _LEVELS[found["level"]], where=found["where"])
        elif self._json:
            self.say(line, "triton")
        else:
            self._write(line)


def _event_of(line: str) -> Fields | None:
    if not line.startswith('{"event": '):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _text(event: Fields) -> str:
    """An event for people; what callers chose stays quoted."""
    shown = (f"{name}={json.dumps(value)}" for name, value in event.items() if name not in ("event", "time", "level"))
    return f"{event.get('time')} {event['event']}: {' '.join(shown)}"


def _stack(error: BaseException) -> list[str]:
    """Where it happened, innermost last. Without the error's own words, as those may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_ID else f"{text[: _MAX_ID - 1]}…"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_stderr(line: str) -> None:
    """At once and in one piece, so that lines of several processes do not mix."""
    os.write(2, line.encode())
