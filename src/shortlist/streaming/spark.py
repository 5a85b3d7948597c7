"""The Spark job: reads the log of events from Kafka, keeps profiles in the store and tables in Parquet.

    python -m shortlist.streaming.spark kafka://localhost:9092/events --profiles valkey://localhost:6379/0 --out tables

or the same through spark-submit. This file is the command line and the query; what a batch does is in `job`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from shortlist.errors import ConfigError, ShortlistError
from shortlist.events.transport import broker_and_topic, read_settings
from shortlist.streaming.aggregate import WIDTH_S
from shortlist.streaming.files import exists, read_json, write_json
from shortlist.streaming.job import Job
from shortlist.streaming.kafka_source import FORMAT, KafkaPythonSource
from shortlist.streaming.session import cause, open_session
from shortlist.streaming.tables import fold, parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job until it is stopped, or with --once to the log's end."""
    options = _parser().parse_args(arguments)
    spark = open_session("shortlist", options.tasks)
    try:
        brokers, topic = broker_and_topic(options.log)
        client = read_settings(options.kafka) if options.kafka else {}
        width_s, out = options.window_minutes * 60, options.out.rstrip("/")
        job = Job(topic, options.profiles, out, options.bundle, width_s, options.tasks, options.fold_every)
        records = read_log(spark, options.format, brokers, topic, options.batch, client)
        query = start(job, records, every_s=None if options.once else options.every)
        query.awaitTermination()
        if options.once:
            finish(spark, job)
    except ShortlistError as error:
        print(error, file=sys.stderr)
        return 1
    except StreamingQueryException as error:
        ours = cause(error)
        if ours is None:
            raise
        print(ours, file=sys.stderr)
        return 1
    finally:
        spark.stop()
    return 0


def read_log(
    spark: SparkSession, format_: str, brokers: str, topic: str, limit: int, client: dict[str, str] | None = None
) -> DataFrame:
    """The topic as a stream from its beginning, about `limit` records a batch; `client` are Kafka's own settings."""
    if format_ == FORMAT:
        spark.dataSource.register(KafkaPythonSource)
    settings = {f"kafka.{name}": value for name, value in (client or {}).items()}
    reader = spark.readStream.format(format_).options(**settings).option("kafka.bootstrap.servers", brokers)
    return reader.options(subscribe=topic, startingOffsets="earliest", maxOffsetsPerTrigger=limit).load()


def start(job: Job, records: DataFrame, every_s: float | None) -> StreamingQuery:
    """Start the query: a batch every `every_s` seconds, or with None all that is there now and then no more.

    Its checkpoint lies with the tables, for they mean nothing without each other. Raises ConfigError where `job.out`
    holds tables without a checkpoint, or of another topic or window.
    """
    checkpoint, about = f"{job.out}/checkpoint", f"{job.out}/job.json"
    if not exists(checkpoint) and (left := parts(job.out, "outcomes", "batch")):
        raise ConfigError(
            f"--out = {job.out}: holds {len(left)} batches but no checkpoint; an empty folder or one that a "
            "job left whole is allowed"
        )
    told = {"topic": job.topic, "window_s": job.width_s}
    if exists(about) and (held := read_json(about)) != told:
        raise ConfigError(f"--out = {job.out}: holds tables of {held}, not of {told}; give these another folder")
    write_json(about, told)
    writer = records.writeStream.foreachBatch(job.process).option("checkpointLocation", checkpoint)
    trigger = writer.trigger(availableNow=True) if every_s is None else writer.trigger(processingTime=f"{every_s} s")
    return trigger.start()


def finish(spark: SparkSession, job: Job) -> None:
    """Finish the tables of all batches there are. Not beside a running query."""
    batches = parts(job.out, "outcomes", "batch")
    if batches:
        fold(spark, job.out, batches[-1], job.width_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m shortlist.streaming.spark", description=__doc__.split("\n")[0])
    parser.add_argument("log", help="the log of events: kafka://host:port[,host:port…]/topic")
    parser.add_argument("--kafka", type=Path, help="YAML or JSON file of further settings of Kafka's client")
    parser.add_argument("--format", choices=[FORMAT, "kafka"], default=FORMAT, help="`kafka` needs Spark's Kafka jar")
    parser.add_argument("--profiles", required=True, help="valkey://host:port/db, as for `shortlist events consume`")
    parser.add_argument("--out", required=True, help="folder or URI of the tables and of the job's checkpoint")
    parser.add_argument("--bundle", help="folder of the bundle with the items' categories, on every executor")
    parser.add_argument("--window-minutes", type=int, default=WIDTH_S // 60, help="width of a window")
    parser.add_argument("--every", type=float, default=10, help="seconds between two batches")
    parser.add_argument("--batch", type=int, default=50_000, help="records of a batch, at most")
    parser.add_argument(
        "--tasks", type=int, default=8, help="tasks that a batch is cut into; about the cores there are"
    )
    parser.add_argument("--fold-every", type=int, default=20, help="batches after which finished tables are written")
    parser.add_argument("--once", action="store_true", help="stop at the log's end, tables finished")
    return parser


if __name__ == "__main__":
    sys.exit(main())
