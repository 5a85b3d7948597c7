"""The audit log: who asked for what and what came of it, one JSON object a line.

No keys, no bodies, no events; of the person that a request is about only a hash, by which somebody who knows the id can
find the lines. Rotation is logrotate's business (copytruncate).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shortlist.errors import ConfigError
from shortlist.gateway.metrics import AUDIT_LOST, Metrics


class Audit:
    """Appends lines to a file that only its owner reads; without a path it writes nothing."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Raises ConfigError when the file cannot be written."""
        self._metrics = metrics
        self._file: int | None = None
        self._torn = False  # the last line is not whole
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"--audit = {path}: cannot be written ({error.strerror})") from error

    def write(self, **what: Any) -> None:
        """One line. A disk that is full costs the line, which is counted, not the request."""
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
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def subject(user: str) -> str:
    """What stands in the log for a person."""
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()[:16]
