"""Who may pass: the key that a request shows, its role, and how many requests its caller has left.

Every handler asks the gate before it does anything; the test of all routes finds the one that forgets to.
"""

from __future__ import annotations

import time

from starlette.requests import HTTPConnection

from shortlist.gateway.keys import EVERYBODY, Caller, Keys
from shortlist.gateway.limits import Buckets, network
from shortlist.gateway.metrics import REFUSED, Metrics
from shortlist.gateway.refusals import HttpError
from shortlist.gateway.settings import Settings

CALLER = "shortlist.caller"  # where the scope of a request keeps who called
SUBJECT = "shortlist.subject"  # and about whom
_SUBPROTOCOL = "key."  # browsers cannot set headers on a WebSocket, only offer subprotocols


class Gate:
    """Lets callers through, or says why not."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises ConfigError when the file of keys cannot be used."""
        self._keys = Keys(settings.keys) if settings.keys else None
        self._buckets = Buckets(settings.rate, settings.burst)
        self._metrics = metrics

    def admit(self, connection: HTTPConnection, role: str, key: str = "") -> Caller:
        """Who calls, if he may do what `role` may; `key` is one that came another way than by header.

        Raises HttpError: 401 without a key that we know, 403 with one of another role, 429 too often.
        """
        address = network(connection.client.host) if connection.client else ""
        caller = EVERYBODY if self._keys is None else self._keys.whose(shown_key(connection) or key)
        wait = self._buckets.take((caller.name if caller else "?", address), time.monotonic())
        connection.scope[CALLER] = caller
        if wait:
            raise self._refused("rate", 429, f"too many requests; the next in {wait:.1f} s", "retry-after", wait)
        if caller is None:
            raise self._refused(
                "key",
                401,
                "an API key is needed (Authorization: Bearer …), and none or an unknown one was given",
                "www-authenticate",
                "Bearer",
            )
        if not caller.may(role):
            raise self._refused("role", 403, f"the key {caller.name!r} is of role {caller.role}; this needs {role}")
        return caller

    def _refused(self, reason: str, status: int, text: str, header: str = "", value: object = "") -> HttpError:
        self._metrics.count(REFUSED, reason=reason)
        shown = str(max(1, round(value))) if isinstance(value, float) else str(value)
        return HttpError(status, text, headers={header: shown} if header else None)


def shown_key(connection: HTTPConnection) -> str:
    """The key in a request's head; empty where there is none."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    offered = connection.scope.get("subprotocols", ())
    return next((str(name)[len(_SUBPROTOCOL) :] for name in offered if str(name).startswith(_SUBPROTOCOL)), "")
