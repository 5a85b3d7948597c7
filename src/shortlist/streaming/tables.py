"""The Parquet tables of the job, from what the batches came to: exact at any time, and finished from time to time.

    outcomes/batch=N       what each record of batch N came to; kept until finished tables hold it
    windows/through=N      start_ms, item_id, events by type, positive ones, ctr: of batches 0 to N
    affinities/through=N   user_id, version, updated_ms, affinities: of batches 0 to N
    popularity/through=N   item_id, popularity: of batches 0 to N
    refused/batch=N        partition, offset, reason, value: of the batches up to N that no other part holds

The functions named like a table give it as of now. Readers of the files take the largest N.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f

from shortlist.profiles.state import TYPES
from shortlist.streaming.aggregate import COUNTED, POPULARITY_HALF_LIFE_S, popularity
from shortlist.streaming.files import is_complete, names, remove
from shortlist.streaming.steps import OUTCOMES

WINDOWS = "start_ms long, item_id string, " + ", ".join(f"{name} long" for name in COUNTED)
AFFINITIES = "user_id binary, version long, updated_ms long, affinities map<string, double>"
REFUSED = "partition int, offset long, reason string, value binary"
POPULARITY = "item_id string, popularity double"
FINISHED = ("windows", "affinities", "popularity")


def windows(spark: SparkSession, out: str, upto: int | None = None) -> DataFrame:
    """start_ms, item_id, events by type and `positive` ones, and `ctr`: clicks for each view, null without views."""
    base, later = _cut(out, "windows", upto)
    counts = [f.count_if(f.col("type") == name).alias(name) for name in TYPES]
    events = _outcomes(spark, out, later).where("item_id is not null").groupBy("start_ms", "item_id")
    parts = _read(spark, base, WINDOWS).unionByName(events.agg(*counts, f.count_if("positive").alias("positive")))
    summed = parts.groupBy("start_ms", "item_id").agg(*(f.sum(name).alias(name) for name in COUNTED))
    return summed.withColumn("ctr", f.when(f.col("view") > 0, f.col("click") / f.col("view")))


def affinities(spark: SparkSession, out: str, upto: int | None = None) -> DataFrame:
    """user_id, version, updated_ms, affinities (category -> weight at updated_ms): each user's latest."""
    base, later = _cut(out, "affinities", upto)
    columns = "user_id", "version", "updated_ms", "affinities"
    parts = _read(spark, base, AFFINITIES).withColumn("batch", f.lit(-1))
    for batch in later:
        moved = _outcomes(spark, out, [batch]).where("profile is not null").select(*columns)
        parts = parts.union(moved.withColumn("batch", f.lit(batch)))
    latest = Window.partitionBy("user_id").orderBy(f.desc("batch"))
    return parts.withColumn("rank", f.row_number().over(latest)).where("rank = 1").select(*columns)


def refused(spark: SparkSession, out: str, upto: int | None = None) -> DataFrame:
    """partition, offset, reason, value of every record that was not applied."""
    held = [f"{out}/refused/batch={n}" for n in parts(out, "refused", "batch", upto)]
    return _read(spark, held, REFUSED).union(_newly_refused(spark, out, upto))


def item_popularity(counts: DataFrame, width_s: int, half_life_s: int = POPULARITY_HALF_LIFE_S) -> DataFrame:
    """item_id, popularity at the end of the newest window of `counts`, a table of windows."""
    newest = counts.agg(f.max("start_ms")).first()
    now_ms = (newest[0] if newest and newest[0] is not None else 0) + width_s * 1000

    def of_item(table: pa.Table) -> pa.Table:
        pairs = zip(table["start_ms"].to_pylist(), table["positive"].to_pylist(), strict=True)
        return pa.table({"item_id": table["item_id"][:1], "popularity": [popularity(pairs, now_ms, half_life_s)]})

    columns = counts.where("positive > 0").select("item_id", "start_ms", "positive")
    return columns.groupBy("item_id").applyInArrow(of_item, POPULARITY).orderBy(f.desc("popularity"), "item_id")


def fold(spark: SparkSession, out: str, batch: int, width_s: int) -> None:
    """Finish the tables of batches 0 to `batch`, and drop what the finished tables before them replaced.

    What this fold replaces goes with the next, for readers may still be at it.
    """
    before = max(parts(out, "popularity", "through", batch - 1), default=-1)

    def finish(part: str, make: Callable[[], DataFrame]) -> None:
        if not is_complete(f"{out}/{part}"):
            make().coalesce(1).write.mode("overwrite").parquet(f"{out}/{part}")

    finish(f"refused/batch={batch}", lambda: _newly_refused(spark, out, batch))
    finish(f"windows/through={batch}", lambda: windows(spark, out, batch))
    finish(f"affinities/through={batch}", lambda: affinities(spark, out, batch))
    counts = spark.read.parquet(f"{out}/windows/through={batch}")
    finish(f"popularity/through={batch}", lambda: item_popularity(counts, width_s))
    for n in parts(out, "outcomes", "batch", before):
        remove(f"{out}/outcomes/batch={n}")
    for table in FINISHED:
        for n in parts(out, table, "through", before - 1):
            remove(f"{out}/{table}/through={n}")


def parts(out: str, table: str, kind: str, upto: int | None = None) -> list[int]:
    """Numbers of a table's complete parts of a kind (batch, through), in order."""
    numbers = [int(name.removeprefix(f"{kind}=")) for name in names(f"{out}/{table}") if name.startswith(f"{kind}=")]
    wanted = sorted(n for n in numbers if upto is None or n <= upto)
    return [n for n in wanted if is_complete(f"{out}/{table}/{kind}={n}")]


def _newly_refused(spark: SparkSession, out: str, upto: int | None) -> DataFrame:
    """Of the batches that no part of the table holds."""
    known = max(parts(out, "refused", "batch", upto), default=-1)
    fresh = [n for n in parts(out, "outcomes", "batch", upto) if n > known]
    return _outcomes(spark, out, fresh).where("reason is not null").select("partition", "offset", "reason", "value")


def _cut(out: str, table: str, upto: int | None) -> tuple[list[str], list[int]]:
    """Folder of the last finished table up to a batch, if there is one, and the batches after it."""
    base = max(parts(out, table, "through", upto), default=-1)
    later = [n for n in parts(out, "outcomes", "batch", upto) if n > base]
    return [f"{out}/{table}/through={base}"] if base >= 0 else [], later


def _outcomes(spark: SparkSession, out: str, batches: list[int]) -> DataFrame:
    return _read(spark, [f"{out}/outcomes/batch={n}" for n in batches], OUTCOMES)


def _read(spark: SparkSession, paths: list[str], schema: str) -> DataFrame:
    return spark.read.schema(schema).parquet(*paths) if paths else spark.createDataFrame([], schema)
