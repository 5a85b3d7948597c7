"""Kafka as a transport, against a real broker of its protocol: groups, rebalance, restarts, kill -9."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shortlist.errors import ConfigError
from shortlist.events.kafka import KafkaSink, KafkaSource, create_topic
from shortlist.events.transport import OffsetError, Record, Sink, Source, TransportError, drain, read_settings
from tests.broker import Broker
from tests.serving.certificates import Authority

QUIET = {"log_level": "0"}
USERS = [b"user-%d" % number for number in range(40)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("broker"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of four partitions."""
    name = f"events-{uuid4().hex[:8]}"
    create_topic(broker.servers, name, 4)
    return name


@pytest.fixture
def sink(broker: Broker, topic: str) -> Iterator[KafkaSink]:
    opened = KafkaSink(broker.servers, topic)
    yield opened
    opened.close()


@pytest.fixture
def source(broker: Broker, topic: str) -> Iterator[KafkaSource]:
    """Of all partitions, in no group."""
    opened = KafkaSource(broker.servers, topic)
    yield opened
    opened.close()


def append_each(sink: KafkaSink, note: str) -> set[bytes]:
    """One record of each user; their values."""
    values = {user + b" " + note.encode() for user in USERS}
    sink.append([(value.split()[0], value) for value in sorted(values)])
    return values


def poll_until(source: KafkaSource, count: int, seconds: float = 60) -> list[Record]:
    """Poll until there are `count` records."""
    found: list[Record] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += source.poll(100, 0.2)
    return found


def send_to(source: KafkaSource, places: dict[int, int]) -> None:
    """Have `source` begin each partition where `places` says by then."""

    def seek(partitions: frozenset[int]) -> None:
        for partition in partitions & places.keys():
            source.seek(partition, places[partition])

    source.on_assigned(seek)


def settle(readers: list[KafkaSource], done: Callable[[list[frozenset[int]]], bool]) -> list[frozenset[int]]:
    """Poll until the assignment is as wanted; what it is in the end."""
    until = time.monotonic() + 60
    while not done([reader.assigned() for reader in readers]) and time.monotonic() < until:
        for reader in readers:
            reader.poll(100, 0.1)
    return [reader.assigned() for reader in readers]


def test_they_are_a_sink_and_a_source(sink: KafkaSink, source: KafkaSource) -> None:
    assert isinstance(sink, Sink)
    assert isinstance(source, Source)


def test_what_is_appended_comes_back_with_the_time_of_its_arrival(sink: KafkaSink, source: KafkaSource) -> None:
    before = time.time_ns() // 1_000_000
    values = append_each(sink, "a")
    records = list(drain(source))
    assert {record.value for record in records} == values
    assert all(before <= record.appended_ms <= time.time_ns() // 1_000_000 for record in records)


def test_a_key_stays_in_one_partition_in_order_and_keys_use_all(sink: KafkaSink, source: KafkaSource) -> None:
    for note in "abc":
        append_each(sink, note)
    records = list(drain(source))
    of_user = {user: [(r.partition, r.value[-1:]) for r in records if r.value.split()[0] == user] for user in USERS}
    assert all(
        len({p for p, _ in found}) == 1 and b"".join(v for _, v in found) == b"abc" for found in of_user.values()
    )
    assert {record.partition for record in records} == {0, 1, 2, 3}


def test_a_group_goes_where_it_is_told_and_not_where_the_broker_says(
    broker: Broker, topic: str, sink: KafkaSink
) -> None:
    append_each(sink, "a")
    append_each(sink, "b")
    for _ in range(2):  # the second time, too: nothing is committed to the broker
        reader = KafkaSource(broker.servers, topic, group="told")
        last = {partition: end - 1 for partition, end in reader.ends().items()}
        send_to(reader, last)
        assert {record.partition: record.offset for record in poll_until(reader, 4)} == last
        reader.close()


def test_nothing_is_read_while_nobody_can_say_from_where(broker: Broker, topic: str, sink: KafkaSink) -> None:
    append_each(sink, "a")
    reader = KafkaSource(broker.servers, topic, group="unsure")
    answers = [ConnectionError("the store is away"), ConnectionError("the store is away"), None]

    def answer(partitions: frozenset[int]) -> None:
        if error := answers.pop(0):
            raise error

    reader.on_assigned(answer)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            poll_until(reader, 1)
    assert len(poll_until(reader, len(USERS))) == len(USERS)
    reader.close()


def test_two_readers_share_the_partitions_and_one_gets_all_when_the_other_leaves(
    broker: Broker, topic: str, sink: KafkaSink
) -> None:
    readers = [KafkaSource(broker.servers, topic, group="shared") for _ in range(2)]
    told: list[frozenset[int]] = []
    readers[0].on_assigned(told.append)
    shares = settle(readers, all)
    assert sorted(p for share in shares for p in share) == [0, 1, 2, 3]
    values = append_each(sink, "shared")
    found, until = set[bytes](), time.monotonic() + 60
    while found != values and time.monotonic() < until:
        found |= {record.value for reader in readers for record in reader.poll(100, 0.1)}
    assert found == values
    readers[1].close()
    assert settle(readers[:1], lambda shares: len(shares[0]) == 4) == [frozenset(range(4))]
    assert told[-1] == frozenset(range(4))
    readers[0].close()


def test_a_killed_reader_with_an_identity_gets_its_partitions_back_at_once(broker: Broker, topic: str) -> None:
    settings = {"group.instance.id": "first"} | QUIET
    code = (
        "from shortlist.events.kafka import KafkaSource\n"
        f"reader = KafkaSource({broker.servers!r}, {topic!r}, 'identity', {settings!r})\n"
        "while not reader.assigned(): reader.poll(1, 0.1)\n"
        "print(len(reader.assigned()), flush=True)\n"
        "while True: reader.poll(1, 1.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"4\n"
        killed.kill()
    reader = KafkaSource(broker.servers, topic, "identity", settings)
    assert settle([reader], lambda shares: len(shares[0]) == 4) == [frozenset(range(4))]
    reader.close()


def test_an_offset_beyond_the_end_is_refused(sink: KafkaSink, source: KafkaSource) -> None:
    append_each(sink, "a")
    source.poll(1, 5)
    with pytest.raises(OffsetError, match="the log holds 0 to"):
        source.seek(0, 10_000)


class Pipeline:
    """A broker of its own, a producer, and a reader that remembers its places as a consumer does."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker(folder)
        self.broker.start()
        create_topic(self.broker.servers, "events", 4)
        self.sink = KafkaSink(self.broker.servers, "events", QUIET)
        self.reader = KafkaSource(self.broker.servers, "events", group="patient", settings=QUIET)
        self.places = dict.fromkeys(range(4), 0)
        self.read: list[tuple[int, int]] = []
        self.values: set[bytes] = set()
        send_to(self.reader, self.places)

    def consume(self, count: int) -> None:
        """Until `count` records were read."""
        until = time.monotonic() + 60
        while len(self.read) < count and time.monotonic() < until:
            for record in self.reader.poll(1000, 0.1):
                self.read.append((record.partition, record.offset))
                self.values.add(record.value)
                self.places[record.partition] = record.offset + 1

    def close(self) -> None:
        self.reader.close()
        self.sink.close()
        self.broker.stop()


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    running = Pipeline(tmp_path)
    yield running
    running.close()


def test_what_is_appended_while_the_broker_restarts_arrives_once(pipeline: Pipeline) -> None:
    values = append_each(pipeline.sink, "before")
    pipeline.consume(20)
    pipeline.broker.rest()
    pipeline.broker.stop()
    sender = threading.Thread(target=lambda: values.update(append_each(pipeline.sink, "meanwhile")))
    sender.start()
    time.sleep(0.5)
    pipeline.broker.start()
    sender.join()
    pipeline.consume(len(values))
    assert pipeline.values == values
    assert len(pipeline.read) == len(set(pipeline.read)) == len(values)


def test_a_broker_that_is_killed_loses_nothing_of_what_it_had_on_disk(pipeline: Pipeline) -> None:
    values = append_each(pipeline.sink, "before")
    pipeline.consume(20)
    pipeline.broker.rest()
    pipeline.broker.kill()
    pipeline.broker.start()
    values |= append_each(pipeline.sink, "after")
    pipeline.consume(len(values))
    assert pipeline.values == values
    assert len(pipeline.read) == len(set(pipeline.read)) == len(values)


def test_a_broker_that_forgot_what_it_acknowledged_is_noticed(pipeline: Pipeline) -> None:
    append_each(pipeline.sink, "kept")
    pipeline.broker.rest()
    kept = pipeline.broker.disk()
    append_each(pipeline.sink, "forgotten")
    pipeline.consume(2 * len(USERS))
    pipeline.broker.forget_since(kept)
    with pytest.raises(OffsetError, match="belongs to another log"):
        pipeline.consume(2 * len(USERS) + 1)


def test_a_producer_that_its_broker_forgot_starts_anew(pipeline: Pipeline) -> None:
    append_each(pipeline.sink, "kept")
    pipeline.broker.rest()
    kept = pipeline.broker.disk()
    append_each(pipeline.sink, "forgotten")
    pipeline.broker.forget_since(kept)
    with pytest.raises(TransportError, match="send them again"):
        append_each(pipeline.sink, "refused")
    values = append_each(pipeline.sink, "again")
    assert values <= {record.value for record in drain(KafkaSource(pipeline.broker.servers, "events"))}


def test_a_topic_that_is_not_there_is_named(broker: Broker) -> None:
    with pytest.raises(TransportError, match=r"/nowhere: .*does the topic exist"):
        KafkaSource(broker.servers, "nowhere").ends()


def test_a_broker_that_is_not_there_is_an_error_not_a_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sink = KafkaSink(f"127.0.0.1:{port}", "events", {"delivery.timeout.ms": "300"} | QUIET)
    with pytest.raises(TransportError, match=r"1 of 1 events were not appended \(.*timed out"):
        sink.append([(b"ann", b"{}")])
    sink.close()


def test_who_waits_for_a_broker_is_told_when_the_sink_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.events.kafka._TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sink = KafkaSink(f"127.0.0.1:{port}", "events", QUIET)
    failures: list[TransportError] = []

    def append() -> None:
        try:
            sink.append([(b"ann", b"{}")])
        except TransportError as error:
            failures.append(error)

    waiting = threading.Thread(target=append, daemon=True)
    waiting.start()
    until = time.monotonic() + 60
    while not len(sink._producer) and time.monotonic() < until:  # nothing waits in it yet
        time.sleep(0.01)
    sink.close()
    waiting.join(60)
    assert ["were not appended" in str(failure) for failure in failures] == [True]


@pytest.mark.parametrize("setting", ["acks", "enable.auto.commit", "bootstrap.servers"])
def test_settings_that_exactly_once_depends_on_cannot_be_changed(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        KafkaSink("127.0.0.1:1", "events", {setting: "0"})


def test_a_setting_that_the_client_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match=r"linger\.minutes"):
        KafkaSink("127.0.0.1:1", "events", {"linger.minutes": "1"})


def test_tls_by_settings_of_a_file_reaches_the_broker(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.sign("broker", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    (tmp_path / "kafka.yaml").write_text(f"security.protocol: ssl\nssl.ca.location: {authority.cert}\nlog_level: 0\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        servers = f"127.0.0.1:{listener.getsockname()[1]}"
        sink = KafkaSink(servers, "events", read_settings(tmp_path / "kafka.yaml"))
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            assert connection.recv(1) == b"\0"  # the length of a request: the client has accepted the certificate
    sink.close()


def test_a_broker_that_is_away_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        opened = KafkaSink(f"127.0.0.1:{nobody.getsockname()[1]}", "events")
        time.sleep(1.5)  # for some ten tries
        opened.close()
    assert sum("refused" in line for line in caplog.messages) == 1
