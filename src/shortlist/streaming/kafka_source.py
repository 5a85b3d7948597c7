"""A Spark streaming source that reads one Kafka topic through confluent-kafka, for installations without Kafka's jar.

It gives the columns of Spark's own `kafka` format and takes the same options, so that the job does not know which of
the two it reads. Offsets live in Spark's checkpoint; no consumer group is used. What records mean is `job`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadLimit, ReadMaxRows, SupportsTriggerAvailableNow
from pyspark.sql.types import StructType

from shortlist.errors import ConfigError, DataError

FORMAT = "kafka-python"
SCHEMA = "key binary, value binary, topic string, partition int, offset long, timestamp timestamp"
ARROW = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
    ]
)
CHUNK = 5_000  # records of one Arrow batch
TIMEOUT_S = 30.0  # how long a broker may say nothing

Offsets = dict[str, int]  # partition -> the next offset to read


class KafkaPythonSource(DataSource):
    """Register with `spark.dataSource.register(KafkaPythonSource)`, read with `spark.readStream.format(FORMAT)`."""

    @classmethod
    def name(cls) -> str:
        return FORMAT

    def schema(self) -> str:
        return SCHEMA

    def streamReader(self, schema: StructType) -> KafkaStreamReader:  # noqa: N802 - Spark's name
        return KafkaStreamReader(self.options)


@dataclass
class Range(InputPartition):
    """The records [start, end) of one partition."""

    partition: int
    start: int
    end: int


class KafkaStreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Plans batches on the driver (the methods on offsets) and reads ranges on executors (`read`)."""

    def __init__(self, options: MutableMapping[str, str]) -> None:
        self.topic = options.get("subscribe", "")
        if not self.topic:
            raise ConfigError("subscribe is empty; the name of one topic is needed")
        self.config = _client_config(options)
        limit = options.get("maxOffsetsPerTrigger")
        self.limit = int(limit) if limit else None
        self._target: Offsets | None = None
        self._consumer: Consumer | None = None

    def initialOffset(self) -> Offsets:  # noqa: N802 - Spark's name
        """Where each partition begins: like the single consumer, the job starts with the whole log."""
        return {partition: begin for partition, (begin, _) in self._watermarks().items()}

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802 - Spark's name
        return ReadMaxRows(self.limit) if self.limit else ReadAllAvailable()

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802 - Spark's name
        self._target = {partition: end for partition, (_, end) in self._watermarks().items()}

    def latestOffset(self, start: Offsets, limit: ReadLimit) -> Offsets:  # noqa: N802 - Spark's name
        """Ends of the next batch: all there is, or a share of each partition's backlog when rows are limited."""
        marks = self._watermarks()
        ends = self._target or {partition: end for partition, (_, end) in marks.items()}
        begins = {partition: start.get(partition, begin) for partition, (begin, _) in marks.items()}
        ends = {partition: max(ends.get(partition, begin), begin) for partition, begin in begins.items()}
        return share_out(begins, ends, limit.max_rows) if isinstance(limit, ReadMaxRows) else ends

    def partitions(self, start: Offsets, end: Offsets) -> list[Range]:
        """One range for each partition that has records to read. Raises DataError where the log has lost some."""
        marks = self._watermarks()
        ranges = []
        for partition, stop in end.items():
            begin = start.get(partition, marks[partition][0])
            if begin < marks[partition][0] and begin < stop:
                raise DataError(
                    f"{self.topic}: records {begin} to {marks[partition][0] - 1} of partition {partition} are gone "
                    "from the log (retention); start again with an empty checkpoint, output folder and store"
                )
            if begin < stop:
                ranges.append(Range(int(partition), begin, stop))
        return ranges

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The records of a range as Arrow batches, in order of their offsets."""
        if not isinstance(partition, Range):
            raise TypeError(f"partition is a {type(partition).__name__}; a Range is allowed")
        consumer = Consumer(self.config)
        try:
            where = TopicPartition(self.topic, partition.partition, partition.start)
            consumer.assign([where])
            yield from _read_range(consumer, partition)
        finally:
            consumer.close()

    def stop(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _watermarks(self) -> dict[str, tuple[int, int]]:
        """First and next offset of every partition."""
        if self._consumer is None:
            self._consumer = Consumer(self.config)
        topic = self._consumer.list_topics(self.topic, timeout=TIMEOUT_S).topics[self.topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        return {
            str(p): self._consumer.get_watermark_offsets(TopicPartition(self.topic, p), timeout=TIMEOUT_S)
            for p in sorted(topic.partitions)
        }


def share_out(begins: Mapping[str, int], ends: Mapping[str, int], rows: int) -> Offsets:
    """Ends of a batch of about `rows` records: every partition gives the same share of its backlog, at least one."""
    backlog = sum(ends[partition] - begin for partition, begin in begins.items())
    if backlog <= rows:
        return dict(ends)
    return {
        partition: min(ends[partition], begin + max(1, (ends[partition] - begin) * rows // backlog))
        for partition, begin in begins.items()
    }


def _client_config(options: Mapping[str, str]) -> dict[str, str | bool]:
    """Options that begin with `kafka.` are librdkafka's own; the rest keeps the client from storing anything."""
    given = {name.removeprefix("kafka."): value for name, value in options.items() if name.startswith("kafka.")}
    if "bootstrap.servers" not in given:
        raise ConfigError("kafka.bootstrap.servers is empty; host:port of a broker is needed")
    fixed: dict[str, str | bool] = {"group.id": "shortlist-spark", "enable.auto.commit": False}
    return {**given, **fixed, "enable.partition.eof": True, "auto.offset.reset": "error"}


def _read_range(consumer: Consumer, wanted: Range) -> Iterator[pa.RecordBatch]:
    """Read until the position passes the range's end: offsets may have gaps (transactions, compaction)."""
    position = wanted.start
    while position < wanted.end:
        messages = consumer.consume(min(CHUNK, wanted.end - position), timeout=TIMEOUT_S)
        if not messages:
            raise DataError(f"partition {wanted.partition}: no record from offset {position} on in {TIMEOUT_S:.0f} s")
        kept = []
        for message in messages:
            error, offset = message.error(), message.offset() or 0
            if error is None:
                position = offset + 1
                kept.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                position = offset
            else:
                raise KafkaException(error)
        kept = [message for message in kept if (message.offset() or 0) < wanted.end]
        if kept:
            yield _batch(kept)


def _batch(messages: list[Message]) -> pa.RecordBatch:
    columns: list[list[Any]] = [
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.topic() for m in messages],
        [m.partition() for m in messages],
        [m.offset() for m in messages],
        [m.timestamp()[1] * 1000 for m in messages],
    ]
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, ARROW, strict=True)], schema=ARROW)
