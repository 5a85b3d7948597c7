"""What a consumer counts, as Prometheus text on a port of its own. What the names mean is in docs/profiles.md."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from shortlist.errors import ConfigError
from shortlist.events.transport import Record

VISIBLE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0)
_HELP = {
    "shortlist_events_total": ("counter", "Events read from the log, by what became of them."),
    "shortlist_events_lag": ("gauge", "Events in the log that are not in the profiles yet."),
    "shortlist_events_profiles_written_total": ("counter", "Profiles written."),
    "shortlist_events_commits_refused_total": ("counter", "Commits refused, because the store's offset had moved."),
    "shortlist_events_failures_total": ("counter", "Times that the store or the log did not answer."),
    "shortlist_events_visible_seconds": ("histogram", "From the log's taking an event to its profile being readable."),
}


class Meters:
    """Counts of one consumer. It adds from its own thread; a scrape reads at any time."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter(applied=0, duplicate=0, late=0, refused=0)
        self.profiles = self.refused_commits = self.failures = 0
        self.lag: Mapping[int, int] = {}  # by partition
        self._visible = [0] * (len(VISIBLE_S) + 1)
        self._visible_sum = 0.0

    def committed(self, records: Sequence[Record], outcomes: Counter[str], profiles: int) -> None:
        """What became of `records` is in the store now, in so many changed `profiles`."""
        self.outcomes.update(outcomes)
        self.profiles += profiles
        now = time.time() * 1000
        for record in records:
            seconds = max(now - record.appended_ms, 0.0) / 1000
            self._visible[bisect_left(VISIBLE_S, seconds)] += 1
            self._visible_sum += seconds

    def text(self) -> str:
        """All of it in Prometheus's text format."""
        lines: list[str] = []
        for name, (kind, about) in _HELP.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *self._samples(name)]
        return "\n".join(lines) + "\n"

    def _samples(self, name: str) -> list[str]:
        match name:
            case "shortlist_events_total":
                return [f'{name}{{outcome="{outcome}"}} {count}' for outcome, count in self.outcomes.items()]
            case "shortlist_events_lag":
                return [f'{name}{{partition="{p}"}} {behind}' for p, behind in self.lag.items()]
            case "shortlist_events_profiles_written_total":
                return [f"{name} {self.profiles}"]
            case "shortlist_events_commits_refused_total":
                return [f"{name} {self.refused_commits}"]
            case "shortlist_events_failures_total":
                return [f"{name} {self.failures}"]
            case _:
                return self._histogram(name)

    def _histogram(self, name: str) -> list[str]:
        bounds = [*(f"{bound:g}" for bound in VISIBLE_S), "+Inf"]
        sums = [sum(self._visible[: i + 1]) for i in range(len(bounds))]
        buckets = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, sums, strict=True)]
        return [*buckets, f"{name}_sum {self._visible_sum:.6f}", f"{name}_count {sums[-1]}"]


def serve(meters: Meters, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Answer GET /metrics on `port` (0: any free one) from a thread; `shutdown()` and `server_close()` end it."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            found = self.path == "/metrics"
            body = meters.text().encode() if found else b"only /metrics is here\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"--metrics-port = {port}: cannot listen on {host}:{port} ({error.strerror or error}); choose another"
        ) from error
    Thread(target=server.serve_forever, name="consumer-metrics", daemon=True).start()
    return server
