"""The gateway's own metrics, counted in process and written out as Prometheus reads them.

Every label comes from a short list (routes, fields, reasons), never from what a caller sent. Triton's metrics are
another endpoint's: the share of a request that Triton took is told apart here, so that the gateway's own is left.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator

BUCKETS = (1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUESTS = "shortlist_gateway_requests_total"
REFUSED = "shortlist_gateway_refused_total"
EVENTS = "shortlist_gateway_events_total"
EVENTS_REFUSED = "shortlist_gateway_events_refused_total"
SLATES = "shortlist_gateway_slates_total"
PUSHED = "shortlist_gateway_pushed_total"
DROPPED = "shortlist_gateway_dropped_total"
STORE_LOST = "shortlist_gateway_store_lost_total"
AUDIT_LOST = "shortlist_gateway_audit_lost_total"
COUNTERS = {
    REQUESTS: "Requests, by route and HTTP status",
    REFUSED: "Requests refused before they were looked at, by reason: key, role, rate, host, origin, slow",
    EVENTS: "Events that the log took",
    EVENTS_REFUSED: "Events refused, by the field that was wrong",
    SLATES: "Slates answered over REST, by status; `precomputed` came from the store because Triton was away",
    PUSHED: "Slates sent over WebSockets",
    DROPPED: "WebSockets closed by the gateway, by reason: slow, full",
    STORE_LOST: "Times that the profile store was away: when it was read, or when changes were waited for",
    AUDIT_LOST: "Lines that the audit log did not take",
}
REQUEST_SECONDS = "shortlist_gateway_request_seconds"
TRITON_SECONDS = "shortlist_gateway_triton_seconds"
HISTOGRAMS = {
    REQUEST_SECONDS: "Seconds from a request's head to the end of its answer, by route",
    TRITON_SECONDS: "Seconds of those that Triton took, or its connection",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters, histograms and gauges of one gateway. For one thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._histograms: dict[tuple[str, Labels], tuple[list[int], list[float]]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, family: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counts[family, tuple(labels.items())] += amount

    def observe(self, family: str, seconds: float, **labels: str) -> None:
        """Add to a histogram."""
        key = family, tuple(labels.items())
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = ([0] * (len(BUCKETS) + 1), [0.0])
        found[0][bisect.bisect_left(BUCKETS, seconds)] += 1
        found[1][0] += seconds

    def gauge(self, family: str, text: str, read: Callable[[], float]) -> None:
        """Have `read` asked whenever the metrics are."""
        self._gauges[family] = text, read

    def __getitem__(self, family: str) -> int:
        """A counter's sum over its labels."""
        return sum(amount for (name, _), amount in self._counts.items() if name == family)

    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return "\n".join([*self._counter_lines(), *self._histogram_lines(), *self._gauge_lines(), ""])

    def _counter_lines(self) -> Iterator[str]:
        for family, text in COUNTERS.items():
            yield f"# HELP {family} {text}"
            yield f"# TYPE {family} counter"
            for (name, labels), amount in sorted(self._counts.items()):
                if name == family:
                    yield f"{family}{_written(labels)} {amount}"

    def _histogram_lines(self) -> Iterator[str]:
        for family, text in HISTOGRAMS.items():
            yield f"# HELP {family} {text}"
            yield f"# TYPE {family} histogram"
            for (name, labels), (at, total) in sorted(self._histograms.items()):
                if name == family:
                    below = 0
                    for bound, times in zip([*map(str, BUCKETS), "+Inf"], at, strict=True):
                        below += times
                        yield f"{family}_bucket{_written((*labels, ('le', bound)))} {below}"
                    yield f"{family}_sum{_written(labels)} {total[0]:.6f}"
                    yield f"{family}_count{_written(labels)} {below}"

    def _gauge_lines(self) -> Iterator[str]:
        for family, (text, read) in self._gauges.items():
            yield f"# HELP {family} {text}"
            yield f"# TYPE {family} gauge"
            yield f"{family} {read():g}"


def _written(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
