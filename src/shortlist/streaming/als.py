"""ALS on Spark (Hu et al. 2008, by MLlib) as a candidate channel, for logs that do not fit one machine.

    python -m shortlist.streaming.als train.parquet --out neighbours.parquet

What leaves it is a table of each item's neighbours, weighed so that adding them up over a history is what a user's
factors would say: to first order a history h has the factors (YᵀY + λI)⁻¹ Σ_j y_j, so item c scores Σ_j B[j, c] with
B = Y (YᵀY + λI)⁻¹ Yᵀ. Training takes the table as an item-item channel (`kind: neighbours`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from shortlist.errors import DataError, ShortlistError
from shortlist.streaming.session import open_session
from shortlist.types import Float32

NEIGHBOURS = "item_id string, neighbour_id string, weight float"
_NEIGHBOURS = pa.schema([("item_id", pa.string()), ("neighbour_id", pa.string()), ("weight", pa.float32())])
BLOCK = 1_000  # items whose neighbours are sought at once


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on a log and write its neighbours."""
    options = _parser().parse_args(arguments)
    spark = open_session("shortlist-als")
    try:
        ids, factors = item_factors(
            spark.read.parquet(options.log),
            rank=options.rank,
            regularization=options.regularization,
            alpha=options.alpha,
            iterations=options.iterations,
            seed=options.seed,
        )
        found = neighbours(spark, ids, factors, options.ridge, options.neighbours)
        found.write.mode("overwrite").parquet(options.out)
    except ShortlistError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        spark.stop()
    return 0


def item_factors(
    log: DataFrame,
    *,
    rank: int = 64,
    regularization: float = 0.2,
    alpha: float = 2.0,
    iterations: int = 10,
    seed: int = 0,
) -> tuple[list[str], Float32]:
    """Ids of the N items of `log` (columns user_id, item_id: one row an event), and their factors [N, rank].

    A user who had an item r times weighs 1 + alpha · r. `regularization` counts for each rating, as MLlib does it.
    Raises DataError for a log without events.
    """
    items = log.select("item_id").distinct().orderBy("item_id").zipWithIndex("item").cache()
    users = log.select("user_id").distinct().zipWithIndex("user")
    ratings = log.groupBy("user_id", "item_id").count().join(items, "item_id").join(users, "user_id")
    numbered = ratings.select(
        f.col("user").cast("int"), f.col("item").cast("int"), f.col("count").cast("float").alias("rating")
    )
    ids = [row.item_id for row in items.orderBy("item").collect()]
    if not ids:
        raise DataError("the log has no events; ALS needs some")
    als = ALS(
        rank=rank,
        regParam=regularization,
        alpha=alpha,
        maxIter=iterations,
        seed=seed,
        implicitPrefs=True,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
    )
    rows = als.fit(numbered).itemFactors.toArrow()
    factors = np.zeros((len(ids), rank), np.float32)
    factors[rows["id"].to_numpy()] = np.stack(rows["features"].to_numpy(zero_copy_only=False))
    return ids, factors


def neighbours(spark: SparkSession, ids: list[str], factors: Float32, ridge: float, count: int) -> DataFrame:
    """item_id, neighbour_id, weight: of each item the `count` others of largest weight.

    `ridge` is λ as a share of the mean eigenvalue of YᵀY. The executors hold all factors: 256 MB for a million items
    of 64.
    """
    gram = factors.T.astype(np.float64) @ factors
    system = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    sources = np.linalg.solve(system, factors.T).T.astype(np.float32)  # Y (YᵀY + λI)⁻¹
    shared = spark.sparkContext.broadcast((ids, sources, factors))

    def blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        names, rows, columns = shared.value
        for batch in batches:
            for start in batch.column("id").to_pylist():
                yield _nearest(names, rows, columns, start, count)

    starts = spark.range(0, len(ids), BLOCK, numPartitions=max(1, -(-len(ids) // BLOCK)))
    return starts.mapInArrow(blocks, NEIGHBOURS)


def _nearest(ids: list[str], sources: Float32, factors: Float32, start: int, count: int) -> pa.RecordBatch:
    """Neighbours of the items from `start` on, strongest first."""
    weights = sources[start : start + BLOCK] @ factors.T  # [b, N]
    own = np.arange(len(weights))
    weights[own, start + own] = -np.inf
    count = min(count, len(ids) - 1)
    best = np.argpartition(-weights, count - 1, axis=1)[:, :count] if count else np.empty((len(weights), 0), np.int64)
    order = np.argsort(-np.take_along_axis(weights, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    columns = [
        pa.array([ids[start + row] for row in own for _ in range(count)], pa.string()),
        pa.array([ids[column] for column in best.ravel()], pa.string()),
        pa.array(np.take_along_axis(weights, best, axis=1).ravel(), pa.float32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_NEIGHBOURS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m shortlist.streaming.als", description=__doc__.split("\n")[0])
    parser.add_argument("log", help="Parquet with the columns user_id and item_id, one row an event")
    parser.add_argument("--out", required=True, help="Parquet folder to write")
    parser.add_argument("--rank", type=int, default=64, help="factors of a user and of an item")
    parser.add_argument("--regularization", type=float, default=0.2, help="L2 penalty, for each rating")
    parser.add_argument("--alpha", type=float, default=2.0, help="weight of an event against that of none")
    parser.add_argument("--iterations", type=int, default=10, help="of alternating least squares")
    parser.add_argument("--ridge", type=float, default=10.0, help="λ, as a share of the factors' mean square")
    parser.add_argument("--neighbours", type=int, default=500, help="kept of each item")
    parser.add_argument("--seed", type=int, default=0, help="of the first factors")
    return parser


if __name__ == "__main__":
    sys.exit(main())
