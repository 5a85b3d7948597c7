"""Makes slates before they are asked for: of the people who are most active, and a list for each segment of all people.

It asks the running server, as anybody would, and writes what that answers into the store; a server that is busy enough
to give light answers is left alone until the next cycle. What a stored slate may answer is for
`shortlist.profiles.precomputed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shortlist.bundle import Bundle
from shortlist.profiles.bundle import StoredProfiles
from shortlist.profiles.layout import HEAD, head
from shortlist.profiles.precomputed import SEGMENT, SLATE, Made, Segment, pack, read_made
from shortlist.profiles.store import PROFILE, ProfileStore
from shortlist.serving.client import Client, Recommendation
from shortlist.serving.repository import find_bundle
from shortlist.serving.tensors import CASCADE
from shortlist.serving.versions import loadable
from shortlist.types import FULL

BATCH = 64  # people who are asked for between two looks at the store
AT_ONCE = 4  # requests under way
CHUNK = 1000  # keys of one command

# KEYS: blobs. ARGV: bytes of each that are wanted.
_HEADS = "local r = {} for i = 1, #KEYS do r[i] = redis.call('GETRANGE', KEYS[i], 0, ARGV[1]) end return r"
# KEYS: blobs. ARGV: milliseconds that they live, then the blobs.
_PUT = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end return #KEYS"

Version = tuple[int, int]
"""Of a live profile: events in it, and when the newest happened. (0, 0): the store knows nobody of that id."""


@dataclass(frozen=True)
class Cycle:
    """What one cycle did."""

    people: int  # who were to have a slate
    fresh: int  # who had one still
    made: int
    left: int  # whose profile changed meanwhile, or whom the server had no time for
    segments: int
    seconds: float


class Slates:
    """The slates in a store, for who writes them."""

    def __init__(self, store: ProfileStore, ttl_s: float) -> None:
        self._store, self._ttl_ms = store, round(1000 * ttl_s)

    def versions(self, users: Sequence[bytes]) -> list[Version]:
        """Versions of live profiles, in order."""
        found: list[Version] = []
        for part in _chunks(users):
            starts = self._store.command("EVAL", _HEADS, len(part), *[PROFILE + user for user in part], HEAD - 1)
            found += [head(start) if start else (0, 0) for start in starts]
        return found

    def made(self, users: Sequence[bytes]) -> list[Made | None]:
        """The slates of people, in order."""
        parts = (self._store.command("MGET", *[SLATE + user for user in part]) for part in _chunks(users))
        return [read_made(blob) for blobs in parts for blob in blobs]

    def put(self, blobs: Mapping[bytes, bytes]) -> None:
        """Write blobs by their keys."""
        for keys in _chunks([*blobs]):
            self._store.command("EVAL", _PUT, len(keys), *keys, self._ttl_ms, *[blobs[key] for key in keys])

    def lives(self, made: Made, seconds: float) -> bool:
        """Whether a slate will be there for so long."""
        return made.made_ms + self._ttl_ms > 1000 * (time.time() + seconds)


class Precompute:
    """Keeps the slates of a server's most active people in its store."""

    def __init__(
        self,
        newest: Callable[[], Path],
        client: Client,
        store: ProfileStore,
        *,
        top_users: int,
        ttl_s: float,
        segments: bool = True,
    ) -> None:
        """`newest` says where the bundle lies that is served; slates and segments last `ttl_s` seconds."""
        self._newest, self._client, self._store = newest, client, store
        self._slates = Slates(store, ttl_s)
        self._top_users, self._wants_segments = top_users, segments
        self._segments: dict[bytes, bytes] = {}
        self._bundle = ""  # that the segments are of

    def cycle(self, every_s: float = 0.0) -> Cycle:
        """Make what is missing, or would be before the next cycle in `every_s` seconds.

        Raises ServerError or StoreError.
        """
        began = time.monotonic()
        bundle = Bundle.open(self._newest())
        if self._wants_segments:
            self._put_segments(bundle)
        people = most_active(StoredProfiles.load(bundle), self._store, self._slates, self._top_users)
        stale = self._stale(people, every_s)
        made = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for part in _chunks(stale, BATCH):
                found = self._make(part, pool)
                self._slates.put(found)
                made += len(found)
                if 2 * len(found) < len(part):
                    break  # the server has better things to do
        seconds = time.monotonic() - began
        return Cycle(len(people), len(people) - len(stale), made, len(stale) - made, len(self._segments), seconds)

    def _stale(self, people: Sequence[bytes], every_s: float) -> list[bytes]:
        """Who of `people` has no slate that is right now and will last until the next cycle."""
        trace = self._client.recommend(k=1, trace=True).trace or {}
        there = zip(people, self._slates.versions(people), self._slates.made(people), strict=True)
        return [
            user
            for user, version, made in there
            if made is None
            or (made.bundle, made.version, made.updated_ms) != (trace["version"], *version)
            or not self._slates.lives(made, every_s)
        ]

    def _make(self, users: Sequence[bytes], pool: ThreadPoolExecutor) -> dict[bytes, bytes]:
        """The slates of `users` who got one that may be kept, by key."""
        versions, made_ms = self._slates.versions(users), time.time_ns() // 1_000_000
        answers = pool.map(lambda user: self._client.recommend(user, trace=True), users)
        return {
            SLATE + user: pack(_made(answer, version, made_ms))
            for user, answer, version in zip(users, answers, versions, strict=True)
            if _is_whole(answer, version)
        }

    def _put_segments(self, bundle: Bundle) -> None:
        if bundle.version != self._bundle:
            self._segments, self._bundle = segment_blobs(bundle), bundle.version
        self._slates.put(self._segments)


def served_bundle(path: Path) -> Path:
    """Where the bundle lies: of the newest version of a repository, of a run, or `path` itself."""
    versions = loadable(path / CASCADE.name)
    return path / CASCADE.name / max(versions, key=int) / "bundle" if versions else find_bundle(path)


def most_active(stored: StoredProfiles, store: ProfileStore, slates: Slates, most: int) -> list[bytes]:
    """The people with the most events, in the bundle's history and in the store's profiles together, most first."""
    events = np.diff(stored.offsets).astype(np.int64)
    live = store.users()
    known, others = stored.find(live), {}
    for user, row, (version, _) in zip(live, known.tolist(), slates.versions(live), strict=True):
        if row >= 0:
            events[row] += version
        else:
            others[user] = version
    top = np.argpartition(-events, most)[:most] if most < len(events) else np.arange(len(events))
    counts = {stored.ids.id(row): int(events[row]) for row in top.tolist() if events[row]} | others
    return sorted(counts, key=lambda user: (-counts[user], user))[:most]


def segment_blobs(bundle: Bundle) -> dict[bytes, bytes]:
    """The segments of a bundle's people as blobs by key; none where there are too few people."""
    from shortlist.cascade import Cascade
    from shortlist.serving.segments import find_segments

    cascade = Cascade(bundle)
    found = find_segments(cascade)
    if found is None:
        return {}
    count, made_ms, ids = len(found.centroids), time.time_ns() // 1_000_000, cascade.catalog.ids
    return {
        SEGMENT + str(i).encode(): pack(
            Segment(bundle.version, count, made_ms, centroid.tobytes(), [ids.id(row) for row in rows])
        )
        for i, (centroid, rows) in enumerate(zip(found.centroids, found.rows.tolist(), strict=True))
    }


def _is_whole(answer: Recommendation, version: Version) -> bool:
    """Whether an answer took full effort, left nothing to chance, and knew the profile of this version."""
    trace = answer.trace or {}
    profile = trace.get("profile") or {"read": False}
    if answer.status != FULL or trace["effort"]["share"] < 1 or not profile["read"]:
        return False
    return profile["version"] == version[0] and all(item.propensity == 1 for item in answer)


def _made(answer: Recommendation, version: Version, made_ms: int) -> Made:
    scores = np.array([item.score for item in answer], np.float32).tobytes()
    bundle = (answer.trace or {})["version"]
    return Made(bundle, *version, made_ms, [item.id.encode() for item in answer], scores)


def _chunks(values: Sequence[bytes], size: int = CHUNK) -> Iterator[Sequence[bytes]]:
    return (values[i : i + size] for i in range(0, len(values), size))
