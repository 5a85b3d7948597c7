"""`POST /v1/events`: what people did, from browsers and servers into the log, answered when the log has it for good.

Each event stands for itself: those that are wrong are named, the others are taken. Whether one came before is for the
consumer to find out, so whoever got no answer sends again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shortlist.errors import ShortlistError
from shortlist.events.schema import Event, EventError, encode, parse
from shortlist.events.transport import Sink
from shortlist.gateway.body import read_body
from shortlist.gateway.gate import Gate
from shortlist.gateway.keys import TRACK
from shortlist.gateway.metrics import EVENTS, EVENTS_REFUSED, Metrics
from shortlist.gateway.refusals import HttpError, answer, busy, wrong
from shortlist.gateway.settings import MAX_EVENTS

MAX_WAITING = 20_000  # events that wait for the log
Records = Sequence[tuple[bytes, bytes]]
_FIELDS = frozenset(Event.__struct_fields__)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_log = logging.getLogger("shortlist.gateway")


class Intake:
    """Appends events to the log. Requests that come while it writes are written together, the next time."""

    def __init__(self, gate: Gate, sink: Sink | None, metrics: Metrics) -> None:
        self._gate, self._sink, self._metrics = gate, sink, metrics
        self._writer = ThreadPoolExecutor(1, "shortlist-intake")
        self._waiting: list[tuple[Records, asyncio.Future[None]]] = []
        self._amount = 0
        self._writing: asyncio.Task[None] | None = None

    async def post(self, request: Request) -> Response:
        """One event, or `{"events": […]}`; what is wrong with one is said by its place in the list."""
        body = await read_body(request)
        raws, key = split(body)
        self._gate.admit(request, TRACK, key)
        if self._sink is None:
            raise HttpError(503, "this gateway takes no events; start it with --events FOLDER or --events kafka://…")
        records, errors = self._parsed(raws)
        if records:
            await self.append(records)
            self._metrics.count(EVENTS, len(records))
        return answer({"accepted": len(records), "errors": errors}, 200 if records else 400)

    async def append(self, records: Records) -> None:
        """On return the records are durable. Raises HttpError: 503 when they may not be."""
        if self._amount + len(records) > MAX_WAITING:
            raise busy("the log does not keep up; send the events again later")
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        self._amount += len(records)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await done

    async def close(self) -> None:
        """Write what waits, then close the log."""
        if self._writing is not None:
            await self._writing
        self._writer.shutdown()
        if self._sink is not None:
            self._sink.close()

    async def _write(self) -> None:
        assert self._sink is not None
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            records = [record for part, _ in group for record in part]
            written = loop.run_in_executor(self._writer, self._sink.append, records)
            await asyncio.wait([written])
            failure = _failure(written.exception())
            self._amount -= len(records)
            for _, done in group:
                if not done.done():  # its request may have been given up
                    done.set_exception(failure) if failure else done.set_result(None)
        self._writing = None

    def _parsed(self, raws: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes]], list[dict[str, Any]]]:
        records, errors = [], []
        for index, raw in enumerate(raws):
            try:
                event = parse(raw)
            except EventError as error:
                self._metrics.count(EVENTS_REFUSED, field=error.field if error.field in _FIELDS else "other")
                shown = repr(error.value)[:80]
                errors.append({"index": index, "field": error.field[:40], "value": shown, "allowed": error.allowed})
            else:
                records.append((event.user_id.encode(), encode(event)))
        return records, errors


def _failure(error: BaseException | None) -> BaseException | None:
    """What callers are told when the log refused their events; where it lies and what ails it is not for them."""
    if not isinstance(error, ShortlistError | OSError):
        return error
    _log.warning("%s", error)
    return busy("the events were not all written; send them again")


def split(body: bytes) -> tuple[list[bytes], str]:
    """The events in a body, unread, and the key that came with them (browsers cannot set headers as a page closes)."""
    try:
        given = _object.decode(body)
        if "events" not in given:
            return [body], ""
        events = [bytes(raw) for raw in _list.decode(given.pop("events"))]
        key = _text.decode(given.pop("key", b'""'))
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f'one event, or {{"events": [event, …]}}, as JSON in UTF-8 is allowed ({error})') from None
    if given:
        raise wrong(next(iter(given))[:40], "…", "no such field; beside events only key is allowed")
    if not 1 <= len(events) <= MAX_EVENTS:
        raise wrong("events", f"{len(events)} events", f"1 to {MAX_EVENTS} are allowed at a time")
    return events, key
