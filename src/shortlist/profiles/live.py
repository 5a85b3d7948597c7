"""Live profiles in the request path: one read of the store for a batch, for as long as the store answers at once.

No request waits longer than `patience` for a read, and none asks a store that failed: a thread tries that again until
it answers, and until then the bundle's stored history does, with status `stale_profile`. Like `shortlist.slates` this
stands before a `recommend`. What a blob holds is for `layout`, what becomes of it for `shortlist.stages.users`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter

from shortlist.errors import DataError, ShortlistError
from shortlist.profiles import FAILED, FOUND, NONE, OUTCOMES, UNASKED
from shortlist.profiles.layout import recent
from shortlist.profiles.precomputed import SLATE, Precomputed
from shortlist.profiles.store import PROFILE, StoreError
from shortlist.profiles.wire import Wire
from shortlist.types import FULL, STALE_PROFILE, UNREAD, Live, Request, Slate

PATIENCE = 0.005  # seconds that a batch waits for the store, unless a deployment says otherwise
AGAIN_AFTER = 0.1  # seconds between two tries to reach a store that failed
PEOPLE = 20_000  # whose profiles' versions are remembered, to tell the first answer that reflects an event
NOBODY = Live(0, 0)
READ, FRESH = "read", "fresh"

_asked_for = attrgetter(*(f.name for f in fields(Request) if f.name != "live"))  # quicker than `replace`; live is last

Answer = Slate | ShortlistError
Recommend = Callable[[Sequence[Request]], Sequence[Answer]]
Observer = Callable[[str, float], None]
"""Told READ and the seconds of a round trip, or FRESH and the seconds from an event to the first answer with it."""


class LiveProfiles:
    """`recommend` for people as they are now. `outcomes` counts the requests that wanted a profile, by what came of it.

    For one thread, as the cascade is.
    """

    def __init__(
        self,
        recommend: Recommend,
        url: str,
        known_until_ms: int,
        observer: Observer,
        precomputed: Precomputed | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Events until `known_until_ms` are in the bundle's stored histories; `precomputed` answers what it can.

        A batch waits `patience` seconds for the store.

        Raises ConfigError for a bad URL.
        """
        self.outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
        self._recommend = recommend
        self._known_until_ms = known_until_ms
        self._observer = observer
        self._precomputed = precomputed
        self._patience = patience
        self._prefixes = (PROFILE, SLATE) if precomputed else (PROFILE,)
        self._versions: OrderedDict[bytes, int] = OrderedDict()
        self._url = url
        self._closed = threading.Event()
        self._wire = self._connected()
        if self._wire is None:
            self._try_again()

    def close(self) -> None:
        """Let go of the store."""
        self._closed.set()
        wire, self._wire = self._wire, None
        if wire:
            wire.close()

    def recommend(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """One answer for each request, in order; a request that names nobody or brings its own history is passed on."""
        asked = [i for i, request in enumerate(requests) if request.user_id and not request.history]
        if not asked:
            return self._recommend(requests)
        known = list(requests)
        made: dict[int, Answer] = {}
        for i, (live, blob) in zip(asked, self._read([requests[i].user_id for i in asked]), strict=True):
            known[i] = Request(*_asked_for(requests[i]), live)  # type: ignore[call-arg]
            if self._precomputed and (slate := self._precomputed.answer(blob, live, known[i])):
                made[i] = slate
        answers = self._computed(known, made)
        now_ms = time.time_ns() // 1_000_000
        for i in asked:
            answers[i] = self._told(known[i], answers[i], now_ms)
        return answers

    def _computed(self, requests: Sequence[Request], made: Mapping[int, Answer]) -> list[Answer]:
        """Every answer: those `made` beforehand, and the others now."""
        if not made:
            return list(self._recommend(requests))
        others = [i for i in range(len(requests)) if i not in made]
        now = self._recommend([requests[i] for i in others]) if others else ()
        answers = {**made, **dict(zip(others, now, strict=True))}
        return [answers[i] for i in range(len(requests))]

    def _read(self, user_ids: Sequence[bytes]) -> list[tuple[Live, bytes | None]]:
        """The profile of each, and the blob of the slate that was made for them beforehand."""
        wire, began = self._wire, time.perf_counter()
        if wire is None:
            self.outcomes[UNASKED] += len(user_ids)
            return [(UNREAD, None)] * len(user_ids)
        try:
            blobs = wire.read(user_ids, self._prefixes)
        except StoreError:
            self._wire = None  # what it still owes us must not be taken for the answer to the next question
            wire.close()
            self._try_again()
            self.outcomes[FAILED] += len(user_ids)
            return [(UNREAD, None)] * len(user_ids)
        self._observer(READ, time.perf_counter() - began)
        profiles, made = blobs[: len(user_ids)], blobs[len(user_ids) :] or [None] * len(user_ids)
        return [(self._live(profile), slate) for profile, slate in zip(profiles, made, strict=True)]

    def _live(self, blob: bytes | None) -> Live:
        if blob is None:
            self.outcomes[NONE] += 1
            return NOBODY
        try:
            version, updated_ms, positives, disliked, drift, bundle = recent(blob, self._known_until_ms)
        except DataError:  # of another format; the rest of the store may be right
            self.outcomes[FAILED] += 1
            return UNREAD
        self.outcomes[FOUND] += 1
        return Live(version, updated_ms, tuple(positives), tuple(disliked), drift, bundle)

    def _told(self, request: Request, answer: Answer, now_ms: int) -> Answer:
        """The answer, with what it owes to the live profile in its status and trace."""
        live = request.live
        if not isinstance(answer, Slate) or live is None:
            return answer
        if answer.trace is not None:
            age_ms = now_ms - live.updated_ms if live.version > 0 else None
            answer.trace["profile"] = {"read": live is not UNREAD, "version": max(0, live.version), "age_ms": age_ms}
        if live is UNREAD:
            return replace(answer, status=STALE_PROFILE) if answer.status == FULL else answer
        if self._is_first(request.user_id, live.version):
            self._observer(FRESH, max(0, now_ms - live.updated_ms) / 1e3)
        return answer

    def _is_first(self, user_id: bytes, version: int) -> bool:
        """Whether the person got answers before, but none yet that reflects this version."""
        before = self._versions.get(user_id)
        if version == before:
            return False
        self._versions[user_id] = version
        if len(self._versions) > PEOPLE:
            self._versions.popitem(last=False)  # who came first
        return before is not None and version > before

    def _try_again(self) -> None:
        threading.Thread(target=self._reconnect, name="shortlist-profiles", daemon=True).start()

    def _reconnect(self) -> None:
        while not self._closed.wait(AGAIN_AFTER):
            if wire := self._connected():
                self._wire = wire
                if self._closed.is_set():
                    self.close()
                return

    def _connected(self) -> Wire | None:
        """A connection that has answered a read in time; None where there is none to be had."""
        wire = Wire(self._url, self._patience)
        try:
            wire.connect()
        except StoreError:
            wire.close()
            return None
        return wire
