"""What the tests of the job share: a log in a topic, runs of the job, and what a run left, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pyspark.sql import SparkSession

from shortlist.events.transport import Record
from shortlist.profiles.facts import bundle_facts
from shortlist.profiles.layout import pack
from shortlist.profiles.state import HALF_LIFE_S
from shortlist.profiles.store import ProfileStore
from shortlist.streaming import tables
from shortlist.streaming.aggregate import COUNTED, Aggregates, aggregate, click_through, popularity
from shortlist.streaming.job import Job
from shortlist.streaming.kafka_source import FORMAT
from shortlist.streaming.spark import finish, read_log, start

PARTITIONS = 3
BATCH = 1_000
_topics = count()


@dataclass(frozen=True)
class Found:
    """Everything that a job leaves, or that one process makes of the same log."""

    profiles: dict[bytes, bytes]
    windows: dict[tuple[int, str], tuple[Any, ...]]
    affinities: dict[bytes, dict[str, float]]
    popularity: dict[str, float]
    refused: list[tuple[int, int, str, bytes]]


def write_topic(broker: str, records: list[Record], partitions: int = PARTITIONS, retention_ms: int = -1) -> str:
    """A new topic that holds `records`; its name."""
    topic = f"events{next(_topics)}"
    admin = AdminClient({"bootstrap.servers": broker})
    kept = NewTopic(topic, partitions, config={"retention.ms": str(retention_ms)})  # the logs are of last winter
    admin.create_topics([kept])[topic].result(10)
    append(broker, topic, records)
    return topic


def append(broker: str, topic: str, records: list[Record]) -> None:
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5})
    for record in records:
        producer.produce(topic, record.value, partition=record.partition, timestamp=record.appended_ms)
    assert producer.flush(30) == 0


def job_of(topic: str, store: str, out: Path, bundle: Path) -> Job:
    return Job(topic, store, str(out), str(bundle), width_s=3600, tasks=2, fold_every=2)


def run(spark: SparkSession, broker: str, job: Job) -> None:
    """The job over all that the topic holds."""
    start(job, read_log(spark, FORMAT, broker, job.topic, BATCH), None).awaitTermination()
    finish(spark, job)


def expected(records: list[Record], bundle: Path) -> Found:
    """What one process makes of the log."""
    one: Aggregates = aggregate(records, bundle_facts(bundle))
    now_ms = max(start for start, _ in one.windows) + 3_600_000
    positives: dict[str, list[tuple[int, int]]] = {}
    for window, counts in one.windows.items():
        if counts["positive"]:
            positives.setdefault(window.item_id, []).append((window.start_ms, counts["positive"]))
    profiles = {user: profile for user, profile in one.profiles.items() if profile is not None}
    return Found(
        {user: pack(profile) for user, profile in profiles.items()},
        {
            tuple(window): (*(counts[name] for name in COUNTED), click_through(counts["click"], counts["view"]))
            for window, counts in one.windows.items()
        },
        {user: profile.affinities.at(profile.updated_ms // 1000, HALF_LIFE_S) for user, profile in profiles.items()},
        {item: popularity(pairs, now_ms) for item, pairs in positives.items()},
        sorted((o.record.partition, o.record.offset, str(o.refusal), o.record.value) for o in one.refused),
    )


def left_by(spark: SparkSession, job: Job) -> Found:
    """What the job left in the store and in its tables."""
    store = ProfileStore(job.store)
    users = store.users()
    blobs = dict(zip(users, store.read(users), strict=True))
    store.close()
    part = f"{job.out}/popularity/through={tables.parts(job.out, 'popularity', 'through')[-1]}"
    return Found(
        {user: blob for user, blob in blobs.items() if blob is not None},
        {
            (r.start_ms, r.item_id): (*(r[name] for name in COUNTED), r.ctr)
            for r in tables.windows(spark, job.out).collect()
        },
        {bytes(r.user_id): r.affinities for r in tables.affinities(spark, job.out).collect()},
        {r.item_id: r.popularity for r in spark.read.parquet(part).collect()},
        sorted((r.partition, r.offset, r.reason, bytes(r.value)) for r in tables.refused(spark, job.out).collect()),
    )
