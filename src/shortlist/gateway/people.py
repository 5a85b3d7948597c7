"""What the profile store knows of a person, for those who ask over HTTP.

Reads only. A store that is away costs the answer (503), never the gateway.
"""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shortlist.errors import DataError, MissingExtraError

try:
    import valkey.asyncio as valkey
    from valkey.exceptions import ValkeyError
except ImportError as error:
    raise MissingExtraError("valkey", "stream") from error
from shortlist.gateway.gate import SUBJECT, Gate
from shortlist.gateway.keys import READ
from shortlist.gateway.metrics import STORE_LOST, Metrics
from shortlist.gateway.refusals import HttpError, answer, busy
from shortlist.profiles.layout import unpack
from shortlist.profiles.state import HALF_LIFE_S, SESSION_HALF_LIFE_S, Profile
from shortlist.profiles.store import PROFILE, ProfileStore

PATIENCE = 0.5  # seconds that the store may take
SHOWN = 50  # newest events and strongest categories of a profile that are shown


class People:
    """Profiles by user id."""

    def __init__(self, url: str, gate: Gate, metrics: Metrics) -> None:
        """Raises ConfigError when the URL cannot be one of a store."""
        ProfileStore(url).close()  # judges the URL, connects to nobody
        self._gate, self._metrics = gate, metrics
        options = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
        self.store = valkey.from_url(url, **options)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connections."""
        await self.store.aclose()

    async def get(self, request: Request, user: str) -> Response:
        """What is known of one person now."""
        request.scope[SUBJECT] = user
        self._gate.admit(request, READ)
        profile = await self.profile(user)
        if profile is None:
            raise HttpError(404, f"user {user[:64]!r}: no events so far, or none for a long time")
        return answer(shown(user, profile, time.time_ns() // 1_000_000))

    async def profile(self, user: str) -> Profile | None:
        """The profile; None where there is none. Raises HttpError when the store cannot say."""
        try:
            blob = await self.store.get(PROFILE + user.encode())
        except (ValkeyError, OSError) as error:
            self._metrics.count(STORE_LOST)
            raise busy(f"the profile store is away ({type(error).__name__})") from None
        try:
            return None if blob is None else unpack(blob)
        except DataError as error:
            raise HttpError(503, str(error)) from None


def shown(user: str, profile: Profile, now_ms: int) -> dict[str, Any]:
    """A profile as JSON, newest events first; affinities as they weigh at `now_ms`."""
    session, second = profile.session, now_ms // 1000
    names = ("item_id", "type", "value", "timestamp_ms")
    return {
        "user_id": user,
        "version": profile.version,
        "updated_ms": profile.updated_ms,
        "counts": {name: amount for name, amount in profile.counts().items() if amount},
        "history": [
            dict(zip(names, (item.decode(), *rest), strict=True)) for item, *rest in profile.history[: -SHOWN - 1 : -1]
        ],
        "disliked": [item.decode() for item in profile.disliked],
        "affinities": _rounded(profile.affinities.at(second, HALF_LIFE_S)),
        "session": {
            "id": session.id.decode(),
            "started_ms": session.started_ms,
            "events": session.events,
            "affinities": _rounded(session.affinities.at(second, SESSION_HALF_LIFE_S)),
        },
        "context": json.loads(profile.context) if profile.context else None,
    }


def _rounded(weights: dict[str, float]) -> dict[str, float]:
    return {name: round(weight, 4) for name, weight in list(weights.items())[:SHOWN]}
