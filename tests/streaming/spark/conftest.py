"""A broker, a session and a store for the Spark job, whose tests run in its own environment (make test-spark)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shortlist.profiles.embedded import EmbeddedStore

if find_spec("pyspark") is None:  # the main environment: these tests are not its business
    collect_ignore_glob = ["test_*.py"]

SETTINGS = {
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.log.level": "ERROR",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # minutes, not hours, are to be lived
}


@pytest.fixture(scope="session", autouse=True)
def patient_with_stores() -> Iterator[None]:
    """A store takes as long as a busy machine lets it."""
    from shortlist.profiles.store import TTL_S, ProfileStore

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProfileStore.__init__, "__defaults__", (20.0, TTL_S))
        yield


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", "2")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a server that speaks Kafka's protocol."""
    from shortlist.profiles.embedded import free_port

    port = free_port()
    command = [Path(sys.executable).parent / "noida-db", "start", "--only", "kafka", "--kafka-port", str(port)]
    folder = tmp_path_factory.mktemp("broker")
    command += ["--host", "127.0.0.1", "--data-dir", folder / "data"]
    with (folder / "log").open("wb") as log:  # the program starts another, and a session ends both
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    yield from _store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    yield from _store(tmp_path / "store")


def _store(folder: Path) -> Iterator[EmbeddedStore]:
    from shortlist.profiles.embedded import EmbeddedStore, free_port

    with EmbeddedStore(folder, free_port()) as running:
        yield running


def _wait(server: str) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    end = time.monotonic() + 60
    while True:
        try:
            AdminClient({"bootstrap.servers": server, "log_level": 0}).list_topics(timeout=1)
            return
        except KafkaException:
            if time.monotonic() > end:
                raise
