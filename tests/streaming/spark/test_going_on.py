"""Where a job begins, where it goes on, and where it refuses to."""

from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession

from shortlist.errors import ConfigError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.facts import bundle_facts
from shortlist.profiles.layout import pack
from shortlist.profiles.store import ProfileStore
from shortlist.streaming.aggregate import aggregate
from shortlist.streaming.files import remove
from shortlist.streaming.session import cause
from tests.streaming.logs import in_partitions, write_events, write_items
from tests.streaming.spark.runs import append, expected, job_of, left_by, run, write_topic

RECORDS = in_partitions(write_events(1_000, seed=2), 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items") / "bundle")


def test_it_goes_on_where_the_single_consumer_stopped(
    spark: SparkSession, broker: str, bundle: Path, store: EmbeddedStore, tmp_path: Path
) -> None:
    topic, profiles = write_topic(broker, RECORDS, 2), ProfileStore(store.url)
    for partition in range(2):
        half = [record for record in RECORDS if record.partition == partition][:200]
        moved = aggregate(half, bundle_facts(bundle)).profiles
        assert profiles.commit(topic, partition, None, 200, {u: pack(p) for u, p in moved.items() if p is not None})
    job = job_of(topic, store.url, tmp_path / "tables", bundle)
    run(spark, broker, job)
    assert left_by(spark, job).profiles == expected(RECORDS, bundle).profiles


def test_what_comes_later_is_added_until_the_store_forgets(
    spark: SparkSession, broker: str, bundle: Path, store: EmbeddedStore, tmp_path: Path
) -> None:
    topic = write_topic(broker, RECORDS[:600], 2)
    job = job_of(topic, store.url, tmp_path / "tables", bundle)
    run(spark, broker, job)
    append(broker, topic, RECORDS[600:900])
    run(spark, broker, job)
    assert left_by(spark, job) == expected(RECORDS[:900], bundle)

    with pytest.raises(ConfigError, match="give these another folder"):
        run(spark, broker, replace(job, width_s=60))

    ProfileStore(store.url).command("FLUSHALL")
    append(broker, topic, RECORDS[900:])
    with pytest.raises(StreamingQueryException, match="the store lost its memory"):
        run(spark, broker, job)

    remove(f"{job.out}/checkpoint")
    with pytest.raises(ConfigError, match="but no checkpoint"):
        run(spark, broker, job)


def test_a_store_that_another_consumer_moves_is_left_alone(
    spark: SparkSession, broker: str, bundle: Path, store: EmbeddedStore, tmp_path: Path
) -> None:
    topic = write_topic(broker, RECORDS[:500], 2)
    job = job_of(topic, store.url, tmp_path / "tables", bundle)
    run(spark, broker, job)
    profiles = ProfileStore(store.url)
    held = profiles.offset(topic, 0)
    assert held is not None
    assert profiles.commit(topic, 0, held, held + 1, {})
    append(broker, topic, RECORDS[500:])
    with pytest.raises(StreamingQueryException) as failed:
        run(spark, broker, job)
    message = cause(failed.value)
    assert message is not None
    assert message.startswith(f"profile store: offset {held + 1} of {topic}, partition 0, where this job left {held}")
