"""What happened in each second of a load test: answers as the clients saw them, and what the server says of itself."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import psutil

from shortlist.loadtest.profiles import BAD
from shortlist.serving.benchmark.cpu import cpu_seconds

QUEUE, REQUESTS = "nv_inference_queue_duration_us", "nv_inference_request_success"
STAGE_SECONDS = "shortlist_stage_duration_seconds_sum"
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Record:
    """The seconds of one test; `close_second` begins the next."""

    def __init__(self) -> None:
        self.seconds: list[dict[str, Any]] = []
        self._begun = time.perf_counter()
        self._empty()

    def answered(self, profile: str, code: str, ms: float, expected: bool) -> None:
        """Take in one answer. What was asked wrongly counts apart."""
        if profile == BAD:
            self._bad[code] += 1
        elif code == "OK":
            self._times.append(ms)
        elif expected:
            self._late += 1
        if not expected:
            self._errors[f"{profile}: {code}"] += 1

    def close_second(self, users: int, server: dict[str, Any]) -> None:
        """Keep what was counted since the last call, which is about a second ago."""
        now = time.perf_counter()
        seconds, self._begun = now - self._begun, now
        percentiles = np.percentile(self._times, [50, 95, 99]).tolist() if self._times else [None] * 3
        self.seconds.append(
            {
                "users": users,
                "per_second": len(self._times) / seconds,
                "late_per_second": self._late / seconds,
                "bad_per_second": self._bad.total() / seconds,
                **dict(zip(("p50_ms", "p95_ms", "p99_ms"), percentiles, strict=True)),
                "bad": dict(self._bad),
                "errors": dict(self._errors),
                "server": server,
            }
        )
        self._empty()

    def _empty(self) -> None:
        self._times: list[float] = []
        self._late = 0
        self._bad: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()


class Watch:
    """The server's own view: differences of its counters from one look to the next."""

    def __init__(self, metrics: str, pid: int) -> None:
        """`metrics` is a URL; `pid` the server's process, 0 where it runs elsewhere."""
        self._metrics, self._pid = metrics, pid
        self._last, self._then = self._counters(), time.perf_counter()

    def look(self) -> dict[str, Any]:
        """CPU in cores, memory in MB (both only of a server on this machine), stages in seconds, queue in ms."""
        now, counters = time.perf_counter(), self._counters()
        seconds, self._then = now - self._then, now
        gained = {name: value - self._last.get(name, 0.0) for name, value in counters.items()}
        self._last = counters
        requests = gained.get(REQUESTS, 0.0)
        return {
            "cores": gained["cpu"] / seconds if self._pid else None,
            "memory_mb": self._memory(),
            "stages": {name[6:]: value for name, value in gained.items() if name.startswith("stage ")},
            "queue_ms": gained.get(QUEUE, 0.0) / 1e3 / requests if requests > 0 else None,
        }

    def _counters(self) -> dict[str, float]:
        found = defaultdict[str, float](float)
        with contextlib.suppress(OSError), urllib.request.urlopen(self._metrics, timeout=5) as page:
            for name, labels, value in _SAMPLE.findall(page.read().decode()):
                of = dict(_LABEL.findall(labels))
                if name == STAGE_SECONDS:
                    found[f"stage {of['stage']}"] += float(value)
                elif name in (QUEUE, REQUESTS) and of.get("model") == "cascade":
                    found[name] += float(value)
        if self._pid:
            found["cpu"] = cpu_seconds([self._pid])
        return found

    def _memory(self) -> float | None:
        """Resident memory of all processes; the pages of the bundle that they share count once for each."""
        if not self._pid:
            return None
        total, root = 0, psutil.Process(self._pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20
