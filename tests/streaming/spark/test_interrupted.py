"""A job that fails at every place where it can, and goes on each time, against one process on the same log."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession

from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.store import ProfileStore
from shortlist.streaming import job as job_module
from shortlist.streaming import tables
from tests.streaming.logs import in_partitions, write_events, write_items
from tests.streaming.spark.conftest import SETTINGS
from tests.streaming.spark.runs import PARTITIONS, Found, expected, job_of, left_by, run, write_topic

RECORDS = in_partitions(write_events(4_000, seed=1), PARTITIONS)


class FaultError(Exception):
    """What ends a run."""


def once(function: Callable[..., object]) -> Callable[..., object]:
    """`function` that fails the first time, before it does anything."""
    calls: list[int] = []

    def failing(*args: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise FaultError(function.__name__)
        return function(*args)

    return failing


def half_committed(marker: str) -> Callable[[str, str], Callable[[pa.Table], pa.Table]]:
    """A committer that commits two partitions of the log and fails at the third, until the file `marker` exists."""
    real = job_module._committer

    def committer(topic: str, url: str) -> Callable[[pa.Table], pa.Table]:
        commit = real(topic, url)

        def failing(rows: pa.Table) -> pa.Table:
            from pathlib import Path

            if rows["partition"][0].as_py() == 1 and not Path(marker).exists():
                Path(marker).touch()
                raise RuntimeError("partition 1 is not committed")
            return commit(rows)

        return failing

    return committer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items") / "bundle")


@pytest.fixture(scope="module")
def one(bundle: Path) -> Found:
    return expected(RECORDS, bundle)


@pytest.fixture(scope="module")
def found(spark: SparkSession, broker: str, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What a run left that was interrupted five times."""
    folder, port = tmp_path_factory.mktemp("interrupted"), free_port()
    store = EmbeddedStore(folder / "store", port)
    job = job_of(write_topic(broker, RECORDS), store.url, folder / "tables", bundle)

    def interrupted() -> None:
        with pytest.raises(StreamingQueryException):
            run(spark, broker, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module.Job, "commit", once(job_module.Job.commit))  # the outcomes lie there
        interrupted()
        patch.setattr(job_module, "_committer", half_committed(str(folder / "marker")))
        interrupted()
        patch.setattr(job_module, "write_json", once(job_module.write_json))  # the store is ahead of our own record
        interrupted()
        patch.setattr(tables, "item_popularity", once(tables.item_popularity))  # some tables are finished, one is not
        interrupted()
        store.kill()
        interrupted()
    with EmbeddedStore(folder / "store", port):
        run(spark, broker, job)
        return left_by(spark, job)


@pytest.mark.parametrize("what", [field.name for field in fields(Found)])
def test_failures_change_nothing(what: str, found: Found, one: Found) -> None:
    assert getattr(found, what) == getattr(one, what)


def test_a_job_that_is_killed_goes_on_where_it_was(
    spark: SparkSession, broker: str, bundle: Path, one: Found, store: EmbeddedStore, tmp_path: Path
) -> None:
    job = job_of(write_topic(broker, RECORDS), store.url, tmp_path / "tables", bundle)
    command = [sys.executable, "-m", "shortlist.streaming.spark", f"kafka://{broker}/{job.topic}", "--once"]
    command += ["--profiles", job.store, "--out", job.out, "--bundle", str(bundle), "--tasks", "2", "--batch", "700"]
    settings = "--master local[2] " + " ".join(f"--conf '{name}={value}'" for name, value in SETTINGS.items())
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": f"{settings} pyspark-shell"}
    killed = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    profiles = ProfileStore(store.url)
    while not profiles.offset(job.topic, 0):
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL, timeout=200)
    assert left_by(spark, job) == one
