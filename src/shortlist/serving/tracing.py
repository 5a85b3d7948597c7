"""OpenTelemetry spans of what an instance does, sent to an OTLP/HTTP receiver by a thread. Off unless asked for.

A request that carries a sampled `traceparent` gets a span in its caller's trace. Requests without one share a span for
their batch, the beginning of a trace, of which a ratio is taken. The stages of the batch are its children. Needs the
extra `otel`, which is imported when spans are asked for and not before.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from shortlist.errors import ConfigError, MissingExtraError, ShortlistError
from shortlist.types import Request, Slate

OTLP, RATIO = "SHORTLIST_OTLP", "SHORTLIST_OTLP_RATIO"  # environment of an instance: where to, and how many
PATH = "/v1/traces"
_TIMEOUT = 2.0  # seconds that one delivery may take; a receiver that is away never holds up an instance's end for long
_SAMPLED = 1


Told = tuple[int, str, float, int, int]
"""One stage of one batch, as the observer told of it: when (ns since 1970), its name, seconds, items in, items out."""
Asked = tuple[Request, str, Slate | ShortlistError]  # a request, its id, and what it was answered


class Spans:
    """Makes the spans of sampled batches, and hands them to `exporter`'s thread."""

    def __init__(self, exporter: Any, ratio: float, resource: Mapping[str, str]) -> None:
        """`ratio` of the batches begin a trace, 0 to 1; `resource` says who does."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._ratio = ratio
        self._provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shortlist")

    def batch(
        self,
        asked: Sequence[Asked],
        between_ns: tuple[int, int],
        stages: Sequence[Told],
    ) -> None:
        """Spans of one batch of valid requests, which took the time `between_ns`, since 1970."""
        groups: list[tuple[list[Asked], str | None]] = []
        groups += [([a], a[0].traceparent) for a in asked if _is_sampled(a[0].traceparent)]
        alone = [a for a in asked if a[0].traceparent is None]
        if alone and random.random() < self._ratio:
            groups.append((alone, None))
        if not groups:
            return
        laid_out = lay_out(stages, between_ns[0])
        for members, parent in groups:
            names = [name for _, name, _ in members]
            about: dict[str, Any] = {"shortlist.batch": len(asked), "shortlist.requests": names}
            if len(members) == 1:
                about |= _told(members[0][2])
            self._span(parent, about, between_ns, laid_out)

    def close(self) -> None:
        """Deliver what is left."""
        self._provider.shutdown()

    def _span(
        self,
        parent: str | None,
        about: dict[str, Any],
        between: tuple[int, int],
        stages: Sequence[tuple[Told, int, int]],
    ) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span("cascade", _context(parent), SpanKind.SERVER, about, start_time=between[0])
        inside = set_span_in_context(span)
        for (_, name, _, items_in, items_out), start, end in stages:
            items = {"shortlist.items_in": items_in, "shortlist.items_out": items_out}
            self._tracer.start_span(name, inside, attributes=items, start_time=start).end(end)
        span.end(between[1])


def spans_from(environment: Mapping[str, str], resource: Mapping[str, str]) -> Spans | None:
    """The spans that an instance's environment asks for."""
    if OTLP not in environment:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(environment[OTLP], timeout=_TIMEOUT)
    named = {} if "OTEL_SERVICE_NAME" in environment else {"service.name": "shortlist"}
    return Spans(exporter, float(environment[RATIO]), {**named, **resource})


def environment_for(otlp: str | None, ratio: float) -> dict[str, str]:
    """What `--otlp` and `--otlp-ratio` mean to an instance.

    Raises ConfigError for an address that is none, MissingExtraError without the extra `otel`.
    """
    if otlp is None:
        return {}
    url = urlsplit(otlp)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"--otlp = {otlp!r}: the address of an OTLP/HTTP receiver, such as http://127.0.0.1:4318")
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        if not _installed(package):
            raise MissingExtraError(package, "otel")
    return {OTLP: otlp if url.path.rstrip("/") else f"{otlp.rstrip('/')}{PATH}", RATIO: str(ratio)}


def lay_out(stages: Sequence[Told], begun_ns: int) -> list[tuple[Told, int, int]]:
    """When each stage began and ended, in ns since 1970.

    The observer is told of several stages at once, after the last of them, and how long each took. As one runs after
    the other, each ended when it was told of or, if that is earlier, when the next began.
    """
    found: list[tuple[Told, int, int]] = []
    end = max((told for told, *_ in stages), default=begun_ns)
    for stage in reversed(stages):
        told, _, seconds, *_ = stage
        end = min(end, told)
        start = max(begun_ns, end - int(1e9 * seconds))
        found.append((stage, start, end))
        end = start
    return found[::-1]


def _is_sampled(parent: str | None) -> bool:
    return parent is not None and bool(int(parent[53:55], 16) & _SAMPLED)


def _context(parent: str | None) -> Any:
    """The caller's span; without one, that of a new trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    flags = TraceFlags(int(parent[53:55], 16))
    caller = SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(caller), Context())


def _told(outcome: Slate | ShortlistError) -> dict[str, Any]:
    if isinstance(outcome, Slate):
        return {"shortlist.status": outcome.status, "shortlist.share": outcome.share}
    return {"error.type": type(outcome).__name__}


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
