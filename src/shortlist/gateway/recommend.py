"""`POST /v1/recommend`: the JSON form of the request that Triton answers.

Only the form is checked here; what fits the bundle, the server says. While Triton is away, a slate that was computed
beforehand is answered, as long as the request allows for one.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Annotated, Any, NoReturn, get_type_hints

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from shortlist.errors import RequestError, ServerError, ShortlistError
from shortlist.gateway.body import deeper_than, read_body
from shortlist.gateway.gate import SUBJECT, Gate
from shortlist.gateway.keys import READ
from shortlist.gateway.metrics import SLATES, TRITON_SECONDS, Metrics
from shortlist.gateway.refusals import HttpError, answer, busy, translated, wrong
from shortlist.gateway.standby import Standby
from shortlist.serving.client import AsyncClient, Recommendation
from shortlist.serving.parse import parse_options
from shortlist.serving.tensors import MAX_CONTEXT_DEPTH, MAX_LIST, TRACEPARENT
from shortlist.types import FALLBACK, MAX_K

MAX_DEADLINE_MS = 10_000.0
_IDS = Annotated[list[str], Meta(max_length=MAX_LIST)]
_FILTER = "an object, such as {}; at most 4096 bytes and 4 levels"


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for a slate."""

    user_id: Annotated[str, Meta(description="text of at most 256 bytes: the caller's own id; empty is anonymous")] = ""
    k: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_K)] | None, Meta(description=f"an int from 1 to {MAX_K} (by default 10)")
    ] = None
    history: Annotated[
        _IDS, Meta(description=f"at most {MAX_LIST} item ids, oldest first; replaces what is known of the user")
    ] = []
    exclude: Annotated[_IDS, Meta(description=f"at most {MAX_LIST} item ids never to return")] = []
    diversity: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="a number from 0 to 1; relevance alone to novelty")
    ] = None
    context: Annotated[dict[str, Any] | None, Meta(description=_FILTER.format('{"device": "phone"}'))] = None
    eligible: Annotated[dict[str, Any] | None, Meta(description=_FILTER.format('{"in_stock": true}'))] = None
    deadline_ms: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_DEADLINE_MS)] | None,
        Meta(description=f"a number above 0, to {MAX_DEADLINE_MS:g}: how long an answer is worth waiting for"),
    ] = None
    trace: Annotated[bool, Meta(description="true or false: the explanation")] = False


_ALLOWED = {name: hint.__metadata__[-1].description for name, hint in get_type_hints(Ask, include_extras=True).items()}
_decoder = msgspec.json.Decoder(Ask)
_log = logging.getLogger("shortlist.gateway")


class Recommender:
    """Asks Triton on behalf of callers."""

    def __init__(self, gate: Gate, standby: Standby | None, metrics: Metrics) -> None:
        self.client: AsyncClient | None = None  # made inside the event loop that uses it
        self._gate, self._standby, self._metrics = gate, standby, metrics
        self._is_away = False  # told in the log once, not with every request

    async def post(self, request: Request) -> Response:
        """A slate for one person, best first."""
        self._gate.admit(request, READ)
        ask = read_ask(await read_body(request))
        request.scope[SUBJECT] = ask.user_id
        return answer(await self.answered(ask, traceparent(request.headers.get("traceparent"))))

    async def answered(self, ask: Ask, trace_context: str | None = None) -> dict[str, Any]:
        """The answer to `ask`, as JSON has it. Raises HttpError."""
        try:
            found = await self.slate(ask, trace_context)
        except ServerError as error:
            if not self._is_away:
                _log.warning("%s", error)
            self._is_away = True
            return await self._instead(ask)
        except ShortlistError as error:
            raise translated(error) from None
        self._is_away = False
        self._metrics.count(SLATES, status=found.status)
        return _as_json(found)

    async def slate(self, ask: Ask, trace_context: str | None = None) -> Recommendation:
        """What Triton answers. Raises ShortlistError."""
        assert self.client is not None
        started = time.perf_counter()
        try:
            return await self.client.recommend(
                ask.user_id,
                k=ask.k,
                history=ask.history,
                exclude=ask.exclude,
                diversity=ask.diversity,
                context=ask.context,
                deadline_ms=ask.deadline_ms,
                eligible=ask.eligible,
                trace=ask.trace,
                traceparent=trace_context,
            )
        except ValueError as error:  # of JSON that Python cannot write, such as an int of 5000 digits
            raise RequestError(f"context, eligible: {error}") from None
        finally:
            self._metrics.observe(TRITON_SECONDS, time.perf_counter() - started)

    async def _instead(self, ask: Ask) -> dict[str, Any]:
        """A slate that was computed beforehand: not where the caller restricts the items, which nobody checks now."""
        items = []
        if self._standby and not ask.eligible:
            items = await self._standby.slate(ask.user_id, set(ask.exclude), ask.k or 10)
        if not items:
            raise busy("the ranking server is away, and there is no slate computed beforehand; try again")
        self._metrics.count(SLATES, status="precomputed")
        shown = [{"id": item, "score": score, "propensity": 1.0} for item, score in items]
        return {"items": shown, "status": FALLBACK, "version": "", "request_id": ""}


def read_ask(body: bytes) -> Ask:
    """The request in a body. Raises HttpError naming field, value and what is allowed."""
    try:
        ask = _decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse(body, str(error))
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f"the body is no JSON object in UTF-8 ({error})") from None
    for name, value in (("context", ask.context), ("eligible", ask.eligible)):
        if deeper_than(value, MAX_CONTEXT_DEPTH):
            raise wrong(name, "…", f"it is nested too deep; at most {MAX_CONTEXT_DEPTH} levels are allowed")
    return ask


def traceparent(header: str | None) -> str | None:
    """The caller's span, if the header names one: W3C wants a bad header ignored."""
    if header is None:
        return None
    try:
        return str(parse_options({TRACEPARENT.name: header})[TRACEPARENT.name])
    except RequestError:
        return None


def _refuse(body: bytes, message: str) -> NoReturn:
    """Name the field that msgspec's `message` speaks of."""
    try:
        given = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # a number that no float holds
        given = {}
    if not isinstance(given, dict):
        raise wrong("body", given, "a JSON object is allowed")
    unknown = re.search("unknown field `(.*)`", message, re.DOTALL)
    if unknown:
        raise wrong(unknown[1][:40], given.get(unknown[1]), f"no such field; the fields are {', '.join(_ALLOWED)}")
    path = re.search(r"`\$\.(\w+)", message)
    field = path[1] if path else "body"
    raise wrong(field, given.get(field), f"{_ALLOWED.get(field, message)} is allowed")


def _as_json(found: Recommendation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "items": [{"id": item.id, "score": item.score, "propensity": item.propensity} for item in found.items],
        "status": found.status,
        "version": found.version,
        "request_id": found.request_id,
    }
    return shown if found.trace is None else shown | {"trace": found.trace}
