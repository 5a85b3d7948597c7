"""The audit log: who asked for what and what came of it, one JSON object a line.

No keys, no bodies, no events; of the person that a request is about only a hash, by which somebody who knows the id can
find the lines. Requests without a known key, and those that come too fast, cost nobody anything to send: the first of a
caller in a minute has a line, the rest have one together. Rotation is logrotate's business (copytruncate).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shortlist.errors import ConfigError
from shortlist.gateway.limits import network
from shortlist.gateway.metrics import AUDIT_LOST, Metrics

REPEATED = (401, 429)  # statuses whose lines are counted together
TOGETHER = 60.0  # seconds for which
MOST_CALLERS = 1000  # told apart in that time; further ones are one
_OTHERS = "others"  # their address


class Audit:
    """Appends lines to a file that only its owner reads; without a path it writes nothing."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Raises ConfigError when the file cannot be written."""
        self._metrics = metrics
        self._file: int | None = None
        self._torn = False  # the last line is not whole
        self._repeated: Counter[tuple[str | None, str, int]] = Counter()  # in this minute: caller, address, status
        self._since = time.monotonic()
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"--audit = {path}: cannot be written ({error.strerror})") from error

    def write(self, status: int, address: str, caller: str | None = None, **what: Any) -> None:
        """A line of one request, or one more in the count of those that are told together."""
        if self._file is None:
            return
        if time.monotonic() >= self._since + TOGETHER:
            self._tell_repeated()
        who = caller, network(address), status
        if status % 4000 in REPEATED:  # a WebSocket is closed with 4000 more
            if who not in self._repeated and len(self._repeated) >= MOST_CALLERS:
                who = None, _OTHERS, status
            self._repeated[who] += 1
        if self._repeated[who] <= 1:
            self._append({"caller": caller, "address": address, "status": status, **what})

    def _tell_repeated(self) -> None:
        """A line for each caller of whom not all was told, and a new minute."""
        for (caller, address, status), times in self._repeated.items():
            if times > 1:
                self._append({"caller": caller, "address": address, "status": status, "more": times - 1})
        self._repeated.clear()
        self._since = time.monotonic()

    def _append(self, what: dict[str, Any]) -> None:
        """A disk that is full costs the line, which is counted, not the request."""
        if self._file is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **what}
        data = b"\n" * self._torn + msgspec.json.encode(line) + b"\n"
        written = 0
        with contextlib.suppress(OSError):
            written = os.write(self._file, data)
        if written < len(data):
            self._torn = self._torn or written > 0
            self._metrics.count(AUDIT_LOST)
        else:
            self._torn = False

    def close(self) -> None:
        """Tell what is left, and close the file."""
        self._tell_repeated()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def subject(user: str) -> str:
    """What stands in the log for a person."""
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()[:16]
