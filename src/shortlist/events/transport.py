"""How events travel: an append-only log in partitions, written through a Sink and read through a Source.

`local_log` keeps one in a folder, `kafka` talks to a broker; both mean the same by partition and offset. Who remembers
the offsets is the reader's affair: a source goes where it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from shortlist.errors import ConfigError, MissingExtraError, ShortlistError

KAFKA = "kafka://"
_BATCH = 5_000
_SILENCE_S = 3.0  # a broker's last offsets may be marks of transactions, which no reader sees


class Record(NamedTuple):
    """One entry of the log. Offsets of a partition rise; Kafka leaves gaps in them."""

    partition: int
    offset: int
    value: bytes
    appended_ms: int  # when the log took it, milliseconds since 1970 UTC


class TransportError(ShortlistError):
    """The log cannot be written or read: names the log, what is wrong and what to do."""


class OffsetError(TransportError):
    """An offset is asked for that the log does not hold (any more, or yet)."""

    def __init__(self, name: str, partition: int, offset: int, begin: int, end: int) -> None:
        super().__init__(
            f"offset {offset} of {name}, partition {partition}: the log holds {begin} to {end}. Events before {begin} "
            "were deleted by retention; an offset beyond the end belongs to another log: rebuild the profiles from "
            "the beginning, or go on from there knowing what is lost"
        )
        self.partition = partition
        self.offset = offset
        self.begin = begin
        self.end = end


@runtime_checkable
class Sink(Protocol):
    """Where records are appended. Safe to call from several threads."""

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (key, value) pairs; on return they are durable. One key's records stay in one partition, in order.

        Raises TransportError; then each record may or may not be in the log, so send it again: event ids de-duplicate.
        """

    def close(self) -> None:
        """Let go of files and connections."""


@runtime_checkable
class Source(Protocol):
    """Where records are read, each partition in order. For one thread."""

    @property
    def name(self) -> str:
        """The log's name, under which offsets are kept."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to `max_records` next records, as soon as there are any; none after `timeout_s`.

        Raises OffsetError when the place to go on from is not in the log any more.
        """

    def seek(self, partition: int, offset: int) -> None:
        """Go on from `offset` of an assigned partition. Raises OffsetError where the log does not hold it."""

    def assigned(self) -> frozenset[int]:
        """The partitions that this source reads now; others of the same group read the rest."""

    def on_assigned(self, callback: Callable[[frozenset[int]], None]) -> None:
        """Have `callback` told of the partitions that arrive, within `poll` and before their first record: it may seek.

        Partitions that it leaves alone are read from their beginning.
        """

    def begin(self) -> dict[int, int]:
        """First offset held, of every partition of the log."""

    def ends(self) -> dict[int, int]:
        """Offset after the last durable record, of every partition of the log."""

    def close(self) -> None:
        """Leave the group, let go of files and connections."""


def open_sink(where: str, settings: Mapping[str, str] | None = None) -> Sink:
    """The sink at `where`: a folder, or kafka://host:port[,host:port…]/topic with further `settings` of the client."""
    if not where:
        raise ConfigError("the log's name is empty: a folder or kafka://host:port/topic is allowed")
    if not where.startswith(KAFKA):
        from shortlist.events.local_log import LocalLog

        return LocalLog(Path(where))
    sink: Sink = _kafka().KafkaSink(*broker_and_topic(where), settings=settings)
    return sink


def open_source(where: str, group: str | None = None, settings: Mapping[str, str] | None = None) -> Source:
    """The source at `where` (see `open_sink`). Without `group`, every partition is read; a folder has no groups."""
    if not where.startswith(KAFKA):
        from shortlist.events.local_source import LocalSource

        return LocalSource(Path(where))
    source: Source = _kafka().KafkaSource(*broker_and_topic(where), group=group, settings=settings)
    return source


def _kafka() -> ModuleType:
    try:
        return import_module("shortlist.events.kafka")
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise MissingExtraError("confluent-kafka", "stream") from error


def read_settings(path: Path) -> dict[str, str]:
    """Settings of Kafka's client (TLS, users …) from a YAML or JSON mapping, so that no process list shows them.

    Their names are librdkafka's, such as `security.protocol: SASL_SSL`. Raises ConfigError.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: YAML or JSON is allowed; {error}") from None
    if not isinstance(document, dict) or any(isinstance(value, dict | list) for value in document.values()):
        raise ConfigError(f"{path}: a mapping from names of settings to values is allowed")
    return {
        str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in document.items()
    }


def drain(source: Source, last: int | None = None) -> Iterator[Record]:
    """The records that are in the log now, all or the `last` of each partition, and a few that come meanwhile."""
    begin, ends = source.begin(), source.ends()
    starts = begin if last is None else {number: max(begin[number], ends[number] - last) for number in begin}

    def go_there(partitions: frozenset[int]) -> None:
        for number in partitions:
            source.seek(number, starts[number])

    source.on_assigned(go_there)
    left = {number for number, end in ends.items() if starts[number] < end}
    until = time.monotonic() + _SILENCE_S
    while left and time.monotonic() < until:
        for record in source.poll(_BATCH, timeout_s=0.5):
            until = time.monotonic() + _SILENCE_S
            yield record
            if record.offset + 1 >= ends[record.partition]:
                left.discard(record.partition)
    if left:
        source.ends()  # raises where the silence was that of a broker that is away


def broker_and_topic(where: str) -> tuple[str, str]:
    """host:port[,host:port…] and topic of a kafka:// address. Raises ConfigError."""
    try:
        parts = urlsplit(where)
    except ValueError:  # of brackets
        parts = urlsplit("")
    topic = parts.path.strip("/")
    if not parts.netloc or not topic or "/" in topic or "@" in parts.netloc or parts.query:
        raise ConfigError(
            f"{where!r}: kafka://host:port[,host:port…]/topic is allowed; users, passwords and TLS are settings"
        )
    return parts.netloc, topic
