"""Kafka as a transport: any broker by `bootstrap.servers`, further settings (TLS, SASL …) as librdkafka names them.

The producer is idempotent and waits for all replicas. The consumer commits nothing to the broker: on every assignment
it goes where it is told to, since the offset that counts is kept beside the profiles.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from shortlist.errors import ConfigError
from shortlist.events.kafka_client import ClientLog, configured, consumer_config, named, plain_config, producer_config
from shortlist.events.transport import OffsetError, Record, TransportError

_log = logging.getLogger(__name__)
_TIMEOUT_S = 10.0  # of questions to the broker
_FATAL = (KafkaException, SystemError)  # of a producer; the second where the client forgets to say the first
_SLICE_S = 0.1  # how soon a change of the assignment is noticed


def create_topic(servers: str, topic: str, partitions: int, settings: Mapping[str, str] | None = None) -> None:
    """Make `topic` unless it is there, replicated as the broker does by default. Raises TransportError."""
    with named(f"kafka://{servers}/{topic}"):
        admin = AdminClient(plain_config(servers, settings), logger=ClientLog())
        try:
            admin.create_topics([NewTopic(topic, partitions)])[topic].result(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        except TimeoutError:
            raise TransportError(
                f"kafka://{servers}: no answer within {_TIMEOUT_S:g} s; is the broker running?"
            ) from None


class KafkaSink:
    """A topic to append to (a Sink)."""

    def __init__(self, servers: str, topic: str, settings: Mapping[str, str] | None = None) -> None:
        """`servers` is host:port[,host:port…]; `settings` are librdkafka's. Nothing is connected to yet."""
        self._topic = topic
        self._where = f"kafka://{servers}/{topic}"
        self._config = producer_config(servers, settings)
        self._usable = threading.Event()
        self._usable.set()
        self._closed = threading.Event()
        with configured(self._where):
            self._producer = Producer(self._config, logger=ClientLog())
        self._thread = threading.Thread(target=self._serve, name="kafka-delivery", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (key, value) pairs; all replicas in sync have them on return. Raises TransportError."""
        if self._closed.is_set():
            raise TransportError(f"{self._where}: the sink is closed")
        if not records:
            return
        self._usable.wait(_TIMEOUT_S)
        delivery, producer = _Delivery(len(records)), self._producer
        with named(self._where):
            for key, value in records:
                self._produce(producer, key, value, delivery)
        delivery.over.wait()
        if delivery.error is not None:
            which, why = f"{delivery.failed} of {len(records)} events", delivery.error.str()
            raise TransportError(f"{self._where}: {which} were not appended ({why}); send them again")

    def close(self) -> None:
        """Wait for what is under way, then disconnect."""
        self._closed.set()
        self._thread.join()
        self._finish()

    def _produce(self, producer: Producer, key: bytes, value: bytes, delivery: _Delivery) -> None:
        while True:
            try:
                producer.produce(self._topic, value, key, on_delivery=delivery.note)
            except BufferError:  # a hundred thousand wait already
                self._closed.wait(0.01)
            else:
                return

    def _serve(self) -> None:
        """Report deliveries; replace a producer that its broker forgot, which can do nothing more."""
        while not self._closed.is_set():
            try:
                self._producer.poll(_SLICE_S)
            except _FATAL as error:
                _log.warning("%s: a new producer after: %s", self._where, error)
                self._usable.clear()
                self._finish()
                self._producer = Producer(self._config, logger=ClientLog())
                self._usable.set()

    def _finish(self) -> None:
        """Tell every call that waits for the producer."""
        until = time.monotonic() + _TIMEOUT_S
        while len(self._producer) and time.monotonic() < until:
            with contextlib.suppress(*_FATAL):
                self._producer.poll(_SLICE_S)
        if len(self._producer):  # nobody would tell those who wait for the rest
            with contextlib.suppress(*_FATAL):
                self._producer.purge()
                self._producer.flush(_SLICE_S)


class KafkaSource:
    """A topic to read (a Source)."""

    def __init__(
        self, servers: str, topic: str, group: str | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Share the topic's partitions with the others of `group`; without one, read all of them."""
        self._topic = topic
        self._where = f"kafka://{servers}/{topic}"
        config = consumer_config(servers, group or f"shortlist-{uuid4().hex}", settings)
        with configured(self._where):
            self._consumer = Consumer(config, logger=ClientLog())
        self._next: dict[int, int] = {}  # where each assigned partition goes on
        self._moved = False  # `_next` is to be told to the client
        self._untold: frozenset[int] = frozenset()  # partitions that arrived and that `_callback` does not know of
        self._callback: Callable[[frozenset[int]], None] | None = None
        self._alone = group is None
        if group is not None:
            self._consumer.subscribe([topic], on_assign=self._arrive, on_revoke=self._leave, on_lost=self._leave)

    @property
    def name(self) -> str:
        """The topic."""
        return self._topic

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to `max_records` next records, as soon as there are any; none after `timeout_s` seconds.

        What the callback of `on_assigned` raises comes out here; it is asked again at the next call.
        """
        until = time.monotonic() + timeout_s
        while True:
            self._settle()
            rest = until - time.monotonic()
            messages = self._fetch(max_records, max(0.0, min(rest, _SLICE_S)))
            if records := self._records(messages):
                return records
            if rest <= 0:
                return []

    def seek(self, partition: int, offset: int) -> None:
        """Go on from `offset`. Raises OffsetError where the topic does not hold it."""
        if partition not in self._next:
            raise ConfigError(f"partition = {partition}: this source reads {sorted(self._next)}")
        begin, end = self._bounds(partition)
        if not begin <= offset <= end:
            raise OffsetError(self._where, partition, offset, begin, end)
        self._next[partition] = offset
        self._moved = True

    def assigned(self) -> frozenset[int]:
        """The partitions that this source reads now."""
        return frozenset(self._next)

    def on_assigned(self, callback: Callable[[frozenset[int]], None]) -> None:
        """Have `callback` told of the partitions that arrive, within `poll` and before their first record."""
        self._callback = callback
        self._untold = frozenset(self._next)

    def begin(self) -> dict[int, int]:
        """First offset held, by partition."""
        return {number: self._bounds(number)[0] for number in self._partitions()}

    def ends(self) -> dict[int, int]:
        """Offset after the last durable record, by partition."""
        return {number: self._bounds(number)[1] for number in self._partitions()}

    def close(self) -> None:
        """Leave the group at once, so that others get the partitions."""
        self._consumer.close()

    def _settle(self) -> None:
        """Ask where partitions that arrived begin, then tell the client.

        Not done in the client's own callback: while there is no answer, the partitions must stay unread.
        """
        if self._alone and not self._next:
            self._arrive(self._consumer, [TopicPartition(self._topic, n) for n in self._partitions()])
        if self._untold and self._callback is not None:
            self._callback(self._untold)
        self._untold = frozenset()
        if self._moved:
            places = [TopicPartition(self._topic, number, offset) for number, offset in self._next.items()]
            with named(self._where):
                self._consumer.assign(places)
            self._moved = False

    def _fetch(self, most: int, timeout_s: float) -> list[Message]:
        """At most `most` messages, as soon as there is one: the client's `consume` would wait for all of them."""
        with named(self._where):
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            return [first, *(self._consumer.consume(most - 1, 0) if most > 1 else [])]

    def _arrive(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign([])
        self._next = {place.partition: OFFSET_BEGINNING for place in partitions}
        self._untold = frozenset(self._next)
        self._moved = True

    def _leave(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._next, self._untold, self._moved = {}, frozenset(), False

    def _records(self, messages: list[Message]) -> list[Record]:
        """The messages of partitions that are still ours. An error among them is raised, and all are read again."""
        records = []
        for message in messages:
            if (error := message.error()) is not None:
                self._check(error, message)
                continue
            partition, offset = message.partition(), message.offset()
            if partition in self._next and offset is not None and not self._moved:
                records.append(Record(partition, offset, message.value() or b"", max(0, message.timestamp()[1])))
        for record in records:
            self._next[record.partition] = record.offset + 1
        return records

    def _check(self, error: KafkaError, message: Message) -> None:
        partition = message.partition()
        if error.retriable() or error.code() in (KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED):
            _log.warning("%s: %s", self._where, error.str())
            return
        self._moved = True
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) and partition in self._next:
            raise OffsetError(self._where, partition, self._next[partition], *self._bounds(partition))
        raise TransportError(f"{self._where}: {error.str()}")

    def _partitions(self) -> list[int]:
        with named(self._where):
            topic = self._consumer.list_topics(self._topic, _TIMEOUT_S).topics[self._topic]
            if topic.error is not None:
                raise KafkaException(topic.error)
            return sorted(topic.partitions)

    def _bounds(self, partition: int) -> tuple[int, int]:
        with named(self._where):
            found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _TIMEOUT_S)
        if found is None:
            raise TransportError(f"{self._where}: no answer within {_TIMEOUT_S:g} s; is the broker running?")
        return found


class _Delivery:
    """What became of the records of one call."""

    def __init__(self, left: int) -> None:
        self.over = threading.Event()
        self.error: KafkaError | None = None
        self.failed = 0
        self._left = left

    def note(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.error = error
            self.failed += 1
        self._left -= 1
        if not self._left:
            self.over.set()
