"""Whatever is killed in the middle, every profile is the one that the log says, and the log has every event."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pytest

from shortlist.events.local_log import LocalLog
from shortlist.events.schema import Event, parse
from shortlist.events.transport import Sink, TransportError, drain, open_source
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.offline import Comparison, compare
from shortlist.profiles.store import ProfileStore, StoreError
from tests.broker import Broker
from tests.profiles.making import facts, pairs, stream

ROOT = Path(__file__).parents[2]
CONSUMER = """
import sys
from shortlist.events.consumer import Consumer
from shortlist.events.transport import open_source
from shortlist.profiles.store import ProfileStore
from tests.profiles.making import facts
Consumer(open_source(sys.argv[1]), ProfileStore(sys.argv[2]), facts).run()
"""


class Live:
    """A log being written, a store, and a consumer between them in a process of its own."""

    def __init__(self, where: str, sink: Sink, events: Sequence[Event], folder: Path) -> None:
        self._where, self._sink, self._events, self._folder = where, sink, events, folder
        self.store = EmbeddedStore(folder)
        self._consumer = self._start()
        self._writing = threading.RLock()
        self._writer = threading.Thread(target=self._write)

    def __enter__(self) -> "Live":
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.join(120)
        self._consumer.kill()
        self._consumer.wait()
        self.store.stop()

    def kill_consumer(self) -> None:
        self._consumer.kill()
        self._consumer.wait()
        self._consumer = self._start()

    def kill_store(self) -> None:
        self.store.kill()
        self.store = EmbeddedStore(self._folder)

    def kill_broker(self, broker: Broker) -> None:
        """This one acknowledges before its disk has it, once a second: what is younger it would take back."""
        with self._writing:
            broker.rest()
            broker.kill()
            broker.start()

    def consumed(self) -> int:
        """How far the store is, of all partitions together."""
        source, store = open_source(self._where), ProfileStore(self.store.url)
        try:
            return sum(store.offset(source.name, partition) or 0 for partition in source.begin())
        except (StoreError, TransportError):
            return -1
        finally:
            source.close()
            store.close()

    def has_consumed(self, count: int) -> bool:
        return self.consumed() >= count

    def settled(self) -> bool:
        """Whether all is written and consumed."""
        if self._writer.is_alive():
            return False
        source = open_source(self._where)
        try:
            return self.consumed() == sum(source.ends().values())
        finally:
            source.close()

    def compare(self) -> Comparison:
        source = open_source(self._where)
        try:
            return compare(source, ProfileStore(self.store.url), facts)
        finally:
            source.close()

    def in_log(self) -> set[str]:
        """Ids of all events that the log holds."""
        source = open_source(self._where)
        try:
            return {parse(record.value).event_id for record in drain(source)}
        finally:
            source.close()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CONSUMER, self._where, self.store.url], cwd=ROOT)

    def _write(self) -> None:
        for start in range(0, len(self._events), 500):
            self._append(self._events[start : start + 500])
            time.sleep(0.02)

    def _append(self, events: Sequence[Event]) -> None:
        while True:
            try:
                with self._writing:
                    return self._sink.append(pairs(events))
            except TransportError:  # some may be in the log all the same, event ids tell
                time.sleep(0.1)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def go_through(live: Live, kills: Sequence[Callable[[], None]], count: int, seconds: float) -> None:
    """Kill one after the other, evenly over the consumption of `count` records, then wait for its end."""
    for number, kill in enumerate(kills, start=1):
        place = number * count // (len(kills) + 1)
        assert wait_until(partial(live.has_consumed, place), seconds)
        kill()
    assert wait_until(live.settled, seconds)


def test_profiles_equal_the_log_after_kills_of_consumer_and_store(tmp_path: Path) -> None:
    events = stream(12_000, users=300)
    log = LocalLog(tmp_path / "log", partitions=2)
    with Live(str(tmp_path / "log"), log, events, tmp_path / "store") as live:
        kills = [live.kill_consumer, live.kill_store, live.kill_store, live.kill_consumer]
        go_through(live, kills, len(events), seconds=120)
        assert live.compare() == Comparison(300, [], [])
    log.close()


@pytest.mark.slow
def test_profiles_equal_the_log_after_kills_of_consumer_broker_and_store_in_100_000_events(tmp_path: Path) -> None:
    from shortlist.events.kafka import KafkaSink, create_topic

    events = stream(100_000, users=2000)
    broker = Broker(tmp_path / "broker")
    broker.start()
    topic = f"events-{uuid4().hex[:8]}"
    create_topic(broker.servers, topic, 3)
    sink = KafkaSink(broker.servers, topic)

    try:
        with Live(f"kafka://{broker.servers}/{topic}", sink, events, tmp_path / "store") as live:
            kills = [live.kill_consumer, live.kill_store, partial(live.kill_broker, broker)] * 3
            random.Random(0).shuffle(kills)
            go_through(live, kills, len(events), seconds=120)
            assert live.in_log() == {event.event_id for event in events}
            assert live.compare() == Comparison(2000, [], [])
    finally:
        sink.close()
        broker.stop()
