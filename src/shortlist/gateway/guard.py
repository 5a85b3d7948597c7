"""The first to see a request: refuses foreign pages and hosts, sets the time it may take, adds the headers that keep
browsers safe, and tells metrics and audit log how it ended. Whose request it is, is for the gate to say.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shortlist.gateway.audit import Audit, subject
from shortlist.gateway.gate import CALLER, SUBJECT
from shortlist.gateway.metrics import REFUSED, REQUEST_SECONDS, REQUESTS, Metrics
from shortlist.gateway.refusals import HttpError, refusal
from shortlist.gateway.settings import REQUEST_SECONDS as LONGEST
from shortlist.gateway.settings import Settings, is_loopback

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_STRICT = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """ASGI middleware around all of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, audit: Audit) -> None:
        self._app = app
        self._metrics, self._audit = metrics, audit
        self._origins = frozenset(settings.origins)
        self._any_host = settings.keys is not None  # a page that rebinds a name to 127.0.0.1 has no key
        self._headers = (*_HEADERS, *([_STRICT] if settings.cert else []))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self._headers if h[0] not in given)]
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000)
            await send(message)

        try:
            await self._within_bounds(scope, receive, send_noting, lambda: status)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    async def _within_bounds(self, scope: Scope, receive: Receive, send: Send, status: Any) -> None:
        if problem := self._foreign(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(problem)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            try:
                async with asyncio.timeout(LONGEST):
                    await self._app(scope, receive, send)
            except TimeoutError:
                self._metrics.count(REFUSED, reason="slow")
                if not status():
                    await refusal(HttpError(504, f"no answer within {LONGEST:g} s"))(scope, receive, send)

    def _foreign(self, scope: Scope) -> HttpError | None:
        """Why a request is turned away by where it comes from; else any page in a visitor's browser could call."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._any_host and not is_loopback(_name(host)):
            self._metrics.count(REFUSED, reason="host")
            return HttpError(403, f"Host = {host[:80]!r}: without keys 127.0.0.1, [::1] and localhost are allowed")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            self._metrics.count(REFUSED, reason="origin")
            return HttpError(403, f"Origin = {origin[:80]!r}: not allowed; let it in with --origin")
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.count(REQUESTS, route=route, status=str(status))
        if scope["type"] == "http":
            self._metrics.observe(REQUEST_SECONDS, seconds, route=route)
        if CALLER not in scope:
            return
        caller, about = scope[CALLER], scope.get(SUBJECT)
        self._audit.write(
            caller=caller.name if caller else None,
            role=caller.role if caller else None,
            address=scope["client"][0] if scope.get("client") else "",
            method=scope.get("method", "WEBSOCKET"),
            route=route,
            status=status,
            ms=round(1e3 * seconds, 1),
            **({"subject": subject(about)} if about is not None else {}),
        )


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
