"""The source on confluent-kafka, asked what Spark asks it, against a broker."""

import time

import pytest
from confluent_kafka import Producer
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadMaxRows

from shortlist.errors import ConfigError, DataError
from shortlist.events.transport import Record
from shortlist.streaming.kafka_source import KafkaStreamReader, Range, share_out
from tests.streaming.logs import BEGAN_MS
from tests.streaming.spark.runs import write_topic

RECORDS = [Record(n % 2, n // 2, f"document {n}".encode(), BEGAN_MS + n) for n in range(20)]


@pytest.fixture(scope="module")
def reader(broker: str) -> KafkaStreamReader:
    return KafkaStreamReader({"kafka.bootstrap.servers": broker, "subscribe": write_topic(broker, RECORDS, 2)})


def test_a_stream_begins_with_the_log(reader: KafkaStreamReader) -> None:
    assert reader.initialOffset() == {"0": 0, "1": 0}


def test_without_a_limit_a_batch_is_all_there_is(reader: KafkaStreamReader) -> None:
    assert reader.latestOffset({"0": 3, "1": 0}, ReadAllAvailable()) == {"0": 10, "1": 10}


def test_a_limited_batch_takes_from_every_partition(reader: KafkaStreamReader) -> None:
    assert reader.latestOffset({"0": 0, "1": 0}, ReadMaxRows(8)) == {"0": 4, "1": 4}


def test_a_partition_that_is_new_begins_with_its_first_record(reader: KafkaStreamReader) -> None:
    assert reader.partitions({"0": 10}, {"0": 10, "1": 4}) == [Range(1, 0, 4)]


def test_a_range_is_read_exactly(reader: KafkaStreamReader) -> None:
    rows = [row for batch in reader.read(Range(1, 2, 5)) for row in batch.to_pylist()]
    assert [(r["partition"], r["offset"], r["value"]) for r in rows] == [
        (record.partition, record.offset, record.value) for record in RECORDS if record.partition == 1
    ][2:5]


def test_a_record_brings_the_time_that_the_log_took_it(reader: KafkaStreamReader) -> None:
    (batch,) = reader.read(Range(0, 1, 2))
    assert batch["timestamp"].to_pylist()[0].timestamp() * 1000 == BEGAN_MS + 2


def test_the_end_of_a_run_over_what_is_there_stays_where_it_was(broker: str) -> None:
    topic = write_topic(broker, RECORDS, 2)
    reader = KafkaStreamReader({"kafka.bootstrap.servers": broker, "subscribe": topic})
    reader.prepareForTriggerAvailableNow()
    producer = Producer({"bootstrap.servers": broker})
    producer.produce(topic, b"later", partition=0)
    producer.flush()
    assert reader.latestOffset({"0": 0, "1": 0}, ReadAllAvailable()) == {"0": 10, "1": 10}


def test_records_that_retention_took_are_missed(broker: str) -> None:
    topic = write_topic(broker, RECORDS, 2, retention_ms=60_000)  # which was over long ago
    reader = KafkaStreamReader({"kafka.bootstrap.servers": broker, "subscribe": topic})
    end = time.monotonic() + 60
    while reader.initialOffset()["0"] == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    with pytest.raises(DataError, match=r"records 0 to 9 of partition 0 are gone"):
        reader.partitions({"0": 0, "1": 0}, {"0": 10, "1": 10})


def test_shares_leave_no_partition_out() -> None:
    assert share_out({"a": 0, "b": 0}, {"a": 1_000, "b": 3}, 100) == {"a": 99, "b": 1}


@pytest.mark.parametrize("options", [{"subscribe": "events"}, {"kafka.bootstrap.servers": "localhost:1"}])
def test_an_option_that_is_missing_is_named(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        KafkaStreamReader(options)
