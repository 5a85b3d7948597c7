"""`shortlist bench realtime`: how soon an event is in an answer, and how fast and how exactly a log becomes profiles.

A whole service runs as `shortlist serve --realtime` starts it. A crowd's events are posted to its gateway and other
people's requests run at a steady rate, while each of a few followed people posts an event, asks until an answer
reflects it, and begins again. Then, with nothing beside it, one consumer works through a log that lies there. In the
end all profiles are compared with those computed from the logs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from shortlist.bundle import Bundle
from shortlist.catalog import IdMap
from shortlist.errors import ServerError
from shortlist.events.local_log import LocalLog
from shortlist.events.schema import Event, EventType, encode
from shortlist.events.transport import open_source
from shortlist.profiles import PROFILES_URL
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.facts import bundle_facts
from shortlist.profiles.layout import recent
from shortlist.profiles.offline import compare
from shortlist.profiles.store import ProfileStore
from shortlist.serving.benchmark.servers import Server
from shortlist.serving.benchmark.worker import Worker
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.realtime import Command, Realtime
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE

if TYPE_CHECKING:
    from rich.table import Table

FOLLOWED, FOLLOWED_EVERY = 8, 0.2  # people, and seconds between two events of one of them
TICK = 0.02  # seconds between two posts of the crowd
AGAIN = 50  # of so many events one is sent twice, as a client does that got no answer
PEOPLE = 5000  # whose events are in the log of the ingest
MESSAGES = 2000  # different requests
PATIENCE = 60.0  # seconds
TYPES: tuple[EventType, ...] = ("click", "view", "like", "dislike", "skip", "share")


@dataclass(frozen=True)
class Load:
    """How much goes on."""

    seconds: float = 20.0
    events: float = 500.0  # a second, beside those of the followed
    requests: float = 50.0  # a second, beside those of the followed
    ingest: int = 100_000  # events that lie in a log


@dataclass
class Exactness:
    """Whether profiles are what their log says."""

    lost: int = 0
    duplicated: int = 0
    equal: bool = True

    def add(self, sent: Mapping[str, int], log: Path, store: ProfileStore, bundle: Path) -> None:
        """Compare the profiles in `store` with how many different events each person `sent`, and with the log."""
        users = list(sent)
        for user, blob in zip(users, store.read([user.encode() for user in users]), strict=True):
            applied = recent(blob).version if blob else 0
            self.lost += max(0, sent[user] - applied)
            self.duplicated += max(0, applied - sent[user])
        source = open_source(str(log))
        found = compare(source, store, bundle_facts(bundle))
        source.close()
        self.equal &= not found.different and not found.unknown and found.equal == len(users)


@dataclass
class Poster:
    """Posts events to a gateway over a connection of its own, and remembers whose they were."""

    url: str
    sent: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)

    def post(self, events: Sequence[Event], again: Sequence[Event] = ()) -> None:
        """Post some, and some that were posted before. Raises ServerError when one is not taken."""
        body = b'{"events":[%b]}' % b",".join(map(encode, [*events, *again]))
        self._connection.request("POST", "/v1/events", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status != 200 or json.loads(said)["errors"]:
            raise ServerError(f"the gateway answers {answer.status} to events: {said[:200].decode()}")
        self.sent.update(event.user_id for event in events)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Events:
    """Makes events of any people with any items; each has an id of its own."""

    def __init__(self, items: Sequence[str], seed: int) -> None:
        self._items, self._rng, self._seed, self._numbers = items, random.Random(seed), seed, count()

    def of(self, user: str, at_ms: int | None = None) -> Event:
        """The next event of `user`, by default of now."""
        at_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
        item, kind = self._rng.choice(self._items), self._rng.choice(TYPES)
        name = f"{self._seed}-{next(self._numbers)}"
        return Event(event_id=name, user_id=user, item_id=item, type=kind, timestamp_ms=at_ms)


def run(bundle: Path, load: Load, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The report, as JSON. Raises ServerError when a part does not start, or an event never arrives."""
    opened = Bundle.open(bundle, verify=False)
    ids = {name: IdMap.load(opened, name) for name in ("item", "user")}
    items, users = ([ids[n].id(row).decode() for row in range(min(2000, len(ids[n])))] for n in ("item", "user"))
    exact = Exactness()
    with tempfile.TemporaryDirectory(prefix="shortlist-bench-") as folder:
        found = _follow(bundle, Path(folder), load, items, users, exact, tell)
        tell(f"ingest of {load.ingest:,} events")
        rate = _ingest(bundle, Path(folder), load.ingest, items, exact)
    p50, p99, most = np.percentile(found.pop("delays"), [50, 99, 100]).tolist()
    return {
        "freshness_ms": {"p50": 1e3 * p50, "p99": 1e3 * p99, "max": 1e3 * most},
        "ingest_events_per_s": rate,
        "lost": exact.lost,
        "duplicated": exact.duplicated,
        "profiles_equal": exact.equal,
        **found,
        "ingested": load.ingest,
    }


def table(report: Mapping[str, Any]) -> Table:
    """The report for people."""
    from rich.table import Table

    shown = Table(title="Real time: from an event to the answer that reflects it", show_header=False)
    fresh = report["freshness_ms"]
    shown.add_row("fresh after, ms", f"p50 {fresh['p50']:.1f}   p99 {fresh['p99']:.1f}   most {fresh['max']:.1f}")
    for name, value in report.items():
        if name != "freshness_ms":
            shown.add_row(name.replace("_", " "), f"{value:,.0f}" if isinstance(value, float) else str(value))
    return shown


def _follow(
    bundle: Path,
    folder: Path,
    load: Load,
    items: Sequence[str],
    users: Sequence[str],
    exact: Exactness,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """What was found while events and requests ran; `delays` are in seconds."""
    build_repository(bundle, folder / "repository")
    with contextlib.ExitStack() as stack:
        tell("starting the service")
        parts = stack.enter_context(Realtime(folder / "realtime", lambda: bundle, tell))
        environment = {PROFILES_URL: parts.store}
        supervisor = stack.enter_context(Supervisor(folder / "repository", free_address(), environment=environment))
        unlimited = ["--rate", "1000000", "--burst", "1000000"]
        gateway = parts.open_gateway(supervisor.address.grpc, free_port(), unlimited)
        requests = stack.enter_context(Worker("shortlist.serving.benchmark.load", bundle, MESSAGES))
        ports, pids = (supervisor.address.grpc_port,), (supervisor.server.pid,)
        server = asdict(Server("cascade", "grpc", ports, pids, CASCADE.name))
        requests.ask(server=server, rate=load.requests, seconds=2.0, seed=0)  # warms up
        tell(f"{load.events:g} events and {load.requests:g} requests a second for {load.seconds:g} s")
        requests.begin(server=server, rate=load.requests, seconds=load.seconds, seed=1)
        posters = [Poster(gateway) for _ in range(1 + FOLLOWED)]
        began = time.monotonic()
        with ThreadPoolExecutor(len(posters)) as pool:
            crowd = pool.submit(_crowd, posters[0], Events(items, 0), users, load.events, load.seconds)
            followed = [
                pool.submit(_followed, poster, Events(items, n), f"followed-{n}", supervisor.address.grpc, load.seconds)
                for n, poster in enumerate(posters[1:], 1)
            ]
            crowd.result()
            delays, stale = zip(*(future.result() for future in followed), strict=True)
        took = time.monotonic() - began
        answered = requests.result()
        sent = sum((poster.sent for poster in posters), Counter[str]())
        for poster in posters:
            poster.close()
        store = ProfileStore(parts.store)
        _wait(parts.events, store)
        exact.add(sent, parts.events, store, bundle)
        store.close()
    return {
        "delays": [delay for some in delays for delay in some],
        "followed": sum(map(len, delays)),
        "followed_stale_answers": sum(stale),
        "events": sum(sent.values()),
        "events_per_s": sum(sent.values()) / took,
        "requests_per_s": answered["per_second"],
        "requests_failed": answered["failed"],
        "request_p99_ms": answered["p99_ms"],
    }


def _crowd(poster: Poster, events: Events, users: Sequence[str], rate: float, seconds: float) -> None:
    """Post `rate` events a second of many people, some of them twice."""
    rng, begun, done = random.Random(0), time.monotonic(), 0
    while (now := time.monotonic() - begun) < seconds:
        new = [events.of(rng.choice(users)) for _ in range(int((now + TICK) * rate) - done)]
        poster.post(new, [event for number, event in enumerate(new, done) if number % AGAIN == 0])
        done += len(new)
        time.sleep(max(0.0, begun + now + TICK - time.monotonic()))


def _followed(poster: Poster, events: Events, user: str, grpc: str, seconds: float) -> tuple[list[float], int]:
    """Seconds from each event of one person to the first answer that reflects it, and how many answers were stale."""
    delays, stale, until = list[float](), 0, time.monotonic() + seconds
    with Client(grpc) as client:
        client.recommend(user)  # sets the connection up
        time.sleep(random.Random(user).random() * FOLLOWED_EVERY)
        while (began := time.monotonic()) < until:
            poster.post([events.of(user)])
            while True:
                answer = client.recommend(user, trace=True)
                stale += answer.status == "stale_profile"
                if answer.trace and answer.trace["profile"]["version"] >= poster.sent[user]:
                    break
                if time.monotonic() > began + PATIENCE:
                    raise ServerError(f"an event of {user} is in no answer after {PATIENCE:g} s")
            delays.append(time.monotonic() - began)
            time.sleep(max(0.0, FOLLOWED_EVERY - delays[-1]))
    return delays, stale


def _ingest(bundle: Path, folder: Path, amount: int, items: Sequence[str], exact: Exactness) -> float:
    """Events a second of one consumer, from its first commit to its last."""
    path, sent = folder / "ingest", Counter[str]()
    log = LocalLog(path)
    for some in _chunks(Events(items, -1), amount):
        log.append([(event.user_id.encode(), encode(event)) for event in some])
        sent.update(event.user_id for event in some[: len(some) - len(some) // AGAIN])
    log.close()
    with EmbeddedStore(folder / "ingest-store") as server, contextlib.closing(ProfileStore(server.url)) as store:
        arguments = ["events", "consume", str(path), "--profiles", server.url, "--bundle", str(bundle)]
        consumer = Command("consumer", arguments, lambda _: None)
        try:
            first, began = _wait(path, store, start=True)
            last, ended = _wait(path, store)
        finally:
            consumer.stop()
        exact.add(sent, path, store, bundle)
    return (last - first) / (ended - began)


def _chunks(events: Events, amount: int) -> Iterator[list[Event]]:
    """Events of many people, a ms apart; each list ends with some that it had before."""
    rng, now_ms, size = random.Random(0), time.time_ns() // 1_000_000, 1000
    for start in range(0, amount, size):
        new = min(size, amount - start)
        new -= new // AGAIN
        some = [events.of(f"person-{rng.randrange(PEOPLE)}", now_ms - amount + start + i) for i in range(new)]
        yield some + rng.sample(some, min(size, amount - start) - new)


def _wait(log: Path, store: ProfileStore, start: bool = False) -> tuple[int, float]:
    """Wait until the store has all of the log, or with `start` anything; how much that is, and when it was seen."""
    source = open_source(str(log))
    try:
        end, until = sum(source.ends().values()), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            done = store.offset(source.name, 0) or 0
            if done >= (1 if start else end):
                return done, time.monotonic()
            time.sleep(0.005)
    finally:
        source.close()
    raise ServerError(f"the consumer stands at {done} of {end} events after {PATIENCE:g} s")
