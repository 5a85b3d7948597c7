"""ALS as a channel: neighbours of a log whose items come in two groups."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from shortlist.errors import DataError
from shortlist.streaming.als import item_factors, neighbours

ITEMS = 20  # i0 … i9 are one group, i10 … i19 the other


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    pairs = [(f"u{u}", f"i{item + 10 * (u % 2)}") for u in range(60) for item in rng.permutation(10)[:6]]
    users, items = zip(*pairs, strict=True)
    path = tmp_path_factory.mktemp("als") / "train.parquet"
    pq.write_table(pa.table({"user_id": users, "item_id": items}), path)
    return path


@pytest.fixture(scope="module")
def factors(spark: SparkSession, log: Path) -> tuple[list[str], np.ndarray]:
    return item_factors(spark.read.parquet(str(log)), rank=2, iterations=4)


def test_every_item_has_factors(factors: tuple[list[str], np.ndarray]) -> None:
    ids, matrix = factors
    assert set(ids) == {f"i{n}" for n in range(ITEMS)}
    assert np.abs(matrix).sum(axis=1).min() > 0


def test_neighbours_are_of_the_same_group(spark: SparkSession, factors: tuple[list[str], np.ndarray]) -> None:
    found = neighbours(spark, *factors, ridge=1.0, count=5).collect()
    assert all(int(row.item_id[1:]) // 10 == int(row.neighbour_id[1:]) // 10 for row in found)


def test_weights_are_what_the_closed_form_says(spark: SparkSession, factors: tuple[list[str], np.ndarray]) -> None:
    ids, y = factors
    gram = y.T.astype(float) @ y
    weights = y @ np.linalg.inv(gram + np.trace(gram) / len(gram) * np.eye(len(gram))) @ y.T
    found = neighbours(spark, ids, y, ridge=1.0, count=ITEMS).collect()
    assert len(found) == ITEMS * (ITEMS - 1)
    for row in found:
        assert row.weight == pytest.approx(weights[ids.index(row.item_id), ids.index(row.neighbour_id)], abs=1e-5)


def test_a_log_without_events_is_refused(spark: SparkSession) -> None:
    with pytest.raises(DataError, match="no events"):
        item_factors(spark.createDataFrame([], "user_id string, item_id string"))
