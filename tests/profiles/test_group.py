"""Consumers that share the partitions of a topic."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from shortlist.events.consumer import Consumer
from shortlist.events.kafka import KafkaSink, KafkaSource, create_topic
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.offline import Comparison, compare
from shortlist.profiles.store import ProfileStore
from tests.broker import Broker
from tests.profiles.making import facts, pairs, stream


class Member:
    """A consumer of a group in a thread of its own."""

    def __init__(self, broker: Broker, store: str) -> None:
        self.source = KafkaSource(broker.servers, "events", "profiles")
        self.consumer = Consumer(self.source, ProfileStore(store), facts, batch=100)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def applied(self) -> int:
        return self.consumer.meters.outcomes["applied"]

    def at_work(self) -> bool:
        """Whether it has partitions, or has left."""
        return bool(self.source.assigned()) or not self._thread.is_alive()

    def leave(self) -> None:
        self.consumer.stop()
        self._thread.join(60)

    def _run(self) -> None:
        self.consumer.run()
        self.source.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """A minute at most; what has not come by then, the assertions tell."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)


def test_partitions_that_move_between_consumers_lose_and_repeat_nothing(
    store: ProfileStore, server: EmbeddedStore, tmp_path: Path
) -> None:
    broker = Broker(tmp_path)
    broker.start()
    create_topic(broker.servers, "events", 4)
    sink = KafkaSink(broker.servers, "events")
    events = pairs(stream(6000, users=100))
    members: list[Member] = []
    for part in range(3):  # one alone, two, the second alone
        if part < 2:
            members.append(Member(broker, server.url))
        else:
            members[0].leave()
        for start in range(2000 * part, 2000 * (part + 1), 250):
            sink.append(events[start : start + 250])
            time.sleep(0.1)  # so that some come while the partitions move
        wait_until(lambda: members[0].applied() > 0 and all(member.at_work() for member in members))
    source = KafkaSource(broker.servers, "events")
    wait_until(lambda: all(store.offset("events", p) == e for p, e in source.ends().items()))
    members[1].leave()
    assert min(member.applied() for member in members) > 0
    assert compare(source, store, facts) == Comparison(100, [], [])
    source.close()
    sink.close()
    broker.stop()
