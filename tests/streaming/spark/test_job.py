"""One run over a log in which everything goes wrong that can, against one process on the same log."""

from dataclasses import fields
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from shortlist.profiles.embedded import EmbeddedStore
from shortlist.streaming.job import Job
from tests.streaming.logs import in_partitions, write_events, write_items
from tests.streaming.spark.runs import PARTITIONS, Found, expected, job_of, left_by, run, write_topic

RECORDS = in_partitions(write_events(4_000), PARTITIONS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items") / "bundle")


@pytest.fixture(scope="module")
def one(bundle: Path) -> Found:
    return expected(RECORDS, bundle)


@pytest.fixture(scope="module")
def job(
    spark: SparkSession,
    broker: str,
    module_store: EmbeddedStore,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    """A finished run."""
    done = job_of(write_topic(broker, RECORDS), module_store.url, tmp_path_factory.mktemp("tables"), bundle)
    run(spark, broker, done)
    return done


@pytest.fixture(scope="module")
def found(spark: SparkSession, job: Job) -> Found:
    return left_by(spark, job)


@pytest.mark.parametrize("what", [field.name for field in fields(Found)])
def test_many_machines_leave_what_one_process_makes_of_the_log(what: str, found: Found, one: Found) -> None:
    assert getattr(found, what) == getattr(one, what)
