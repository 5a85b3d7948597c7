"""`/v1/live`: a WebSocket that sends a new slate whenever its person's profile changes.

The store publishes whose profile changed, on a channel for each; `Changes` listens to those whom anybody watches. A
burst of changes becomes one slate, and a client that does not take what it is sent is dropped: at most one slate waits
for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect
from valkey.exceptions import ConnectionError, ValkeyError

from shortlist.errors import ShortlistError
from shortlist.gateway.gate import SUBJECT, Gate
from shortlist.gateway.keys import READ
from shortlist.gateway.metrics import DROPPED, PUSHED, STORE_LOST, Metrics
from shortlist.gateway.people import People, shown
from shortlist.gateway.recommend import Ask, Recommender
from shortlist.gateway.refusals import HttpError, wrong
from shortlist.gateway.settings import MAX_LIVE
from shortlist.profiles.store import CHANGED
from shortlist.types import FALLBACK, MAX_K

SUBPROTOCOL = "shortlist"
APART = 0.05  # seconds between two slates of one client, in which further changes gather
TAKEN_WITHIN = 5.0  # seconds in which a client has to take a slate
AT_ONCE = 16  # slates asked for at the same time, so that a change that many watch is no flood
MAX_REASON = 120  # bytes of a close's reason
AGAIN_AFTER = 5.0  # seconds after which a slate that something was missing for is made anew
LOOK_EVERY = 0.1  # seconds between two looks who is watched; what happens until then, a new watcher's next slate shows
SILENT = 50  # looks without a message, after which the store is asked whether it is there
_AGAIN = (0.1, 0.3, 1.0, 3.0)  # seconds before the store is tried again
_log = logging.getLogger("shortlist.gateway")


class Changes:
    """Whose profile changed, from the store's channels to those who wait for it."""

    def __init__(self, people: People, metrics: Metrics) -> None:
        self._people, self._metrics = people, metrics
        self._watchers: dict[bytes, set[asyncio.Event]] = defaultdict(set)
        self._listener: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._watchers.values()))

    @contextlib.contextmanager
    def of(self, user: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the person's profile changed, or may have; set at the beginning."""
        name, changed = user.encode(), asyncio.Event()
        changed.set()
        self._watchers[name].add(changed)
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        try:
            yield changed
        finally:
            self._watchers[name].discard(changed)
            if not self._watchers[name]:
                del self._watchers[name]

    async def close(self) -> None:
        """Stop listening."""
        self._watchers.clear()
        if self._listener is not None:
            await asyncio.wait([self._listener])

    async def _listen(self) -> None:
        """Until nobody watches. Never cancelled: the store's client swallows some cancellations."""
        failures = 0
        while self._watchers:
            try:
                async with self._people.store.pubsub() as channel:
                    heard, silent = frozenset[bytes](), 0
                    while self._watchers:
                        heard = await self._hear(channel, heard)
                        message = await channel.get_message(timeout=LOOK_EVERY)
                        silent = 0 if message else silent + 1
                        if message:
                            failures = 0
                            self._tell(message)
                        elif silent == SILENT:
                            await channel.ping()
                        elif silent > SILENT + 2:
                            raise ConnectionError("the store does not answer")
            except (ValkeyError, OSError):
                self._metrics.count(STORE_LOST)
                await asyncio.sleep(_AGAIN[min(failures, len(_AGAIN) - 1)])
                failures += 1
        self._listener = None

    async def _hear(self, channel: Any, heard: frozenset[bytes]) -> frozenset[bytes]:
        """Listen to those who are watched, where until now those `heard` were listened to."""
        watched = frozenset(self._watchers)
        if new := watched - heard:
            await channel.subscribe(*[CHANGED + user for user in new])
        if gone := heard - watched:
            await channel.unsubscribe(*[CHANGED + user for user in gone])
        return watched

    def _tell(self, message: dict[str, Any]) -> None:
        """A change; or the beginning of a subscription, the first or another: what was before, nobody told us."""
        if message["type"] in ("message", "subscribe"):
            for event in self._watchers.get(message["channel"][len(CHANGED) :], ()):
                event.set()


class Live:
    """Answers WebSockets."""

    def __init__(
        self,
        gate: Gate,
        recommender: Recommender,
        people: People | None,
        changes: Changes | None,
        titles: dict[str, str],
        metrics: Metrics,
    ) -> None:
        self._gate, self._recommender, self._people, self._changes = gate, recommender, people, changes
        self._titles, self._metrics = titles, metrics
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def socket(self, websocket: WebSocket) -> None:
        """One client, from its greeting to its end."""
        offered = websocket.scope.get("subprotocols", ())
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            self._gate.admit(websocket, READ)
            user, k = _asked(websocket)
            if self._changes is None or self._people is None:
                raise HttpError(503, "this gateway has no profile store; start it with --profiles URL")
            if len(self._changes) >= MAX_LIVE:
                self._metrics.count(DROPPED, reason="full")
                raise HttpError(503, f"{MAX_LIVE} others are watching already; try again later")
        except HttpError as problem:  # browsers see the code and reason of a close, not the answer to a handshake
            await websocket.close(4000 + problem.status, str(problem).encode()[:MAX_REASON].decode(errors="ignore"))
            return
        websocket.scope[SUBJECT] = user
        with self._changes.of(user) as changed:
            ends = [
                asyncio.create_task(self._send(websocket, user, k, changed)),
                asyncio.create_task(_gone(websocket)),
            ]
            done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                raise error

    async def _send(self, websocket: WebSocket, user: str, k: int, changed: asyncio.Event) -> None:
        patience: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await changed.wait()
            changed.clear()
            async with self._turn:
                message = await self._message(user, k)
            try:
                async with asyncio.timeout(TAKEN_WITHIN):
                    await websocket.send_text(msgspec.json.encode(message).decode())
            except TimeoutError:
                self._metrics.count(DROPPED, reason="slow")
                return
            except WebSocketDisconnect:
                return
            self._metrics.count(PUSHED)
            patience = None if _is_whole(message) else AGAIN_AFTER
            await asyncio.sleep(APART)

    async def _message(self, user: str, k: int) -> dict[str, Any]:
        """The slate and the profile of this moment; what cannot be had is said in `problem`."""
        assert self._people is not None
        started = time.perf_counter()
        ask = Ask(user_id=user, k=k, trace=True)
        slate, profile = await asyncio.gather(
            self._recommender.answered(ask), self._people.profile(user), return_exceptions=True
        )
        took = time.perf_counter() - started
        message: dict[str, Any] = {"user_id": user, "ms": round(1e3 * took, 2), "at_ms": time.time_ns() // 1_000_000}
        for part in (slate, profile):
            if isinstance(part, HttpError | ShortlistError):
                message["problem"] = str(part)
            elif isinstance(part, BaseException):
                raise part
        if isinstance(slate, dict):
            items = [item | {"title": self._titles.get(item["id"], "")} for item in slate["items"]]
            message["slate"] = slate | {"items": items}
        if not isinstance(profile, BaseException):
            message["profile"] = shown(user, profile, message["at_ms"]) if profile else None
        return message


def _is_whole(message: dict[str, Any]) -> bool:
    """Whether nothing was away when the message was made."""
    return "problem" not in message and message["slate"]["status"] != FALLBACK


def _asked(websocket: WebSocket) -> tuple[str, int]:
    """The user and k of the query."""
    user, k = websocket.query_params.get("user", ""), websocket.query_params.get("k", "10")
    if not 1 <= len(user.encode("utf-8", "replace")) <= 256:
        raise wrong("user", user[:20], "text of 1 to 256 bytes is allowed")
    if not (k.isascii() and k.isdigit() and len(k) < 4 and 1 <= int(k) <= MAX_K):
        raise wrong("k", k[:20], f"an int from 1 to {MAX_K} is allowed")
    return user, int(k)


async def _gone(websocket: WebSocket) -> None:
    """Wait until the client leaves, or says something, which it has no reason to."""
    message = await websocket.receive()
    if message["type"] == "websocket.receive":
        await websocket.close(1003, "nothing is read here")
