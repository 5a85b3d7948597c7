"""Channels computed elsewhere: the log that goes out, the table that comes back."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist.config import Config, LinearConfig
from shortlist.data.log import InteractionLog
from shortlist.errors import ConfigError, DataError
from shortlist.training.neighbours import fingerprint, read_neighbours, write_training_log
from shortlist.training.retriever import fit_channel

PAIRS = [("a", "b", 0.5), ("a", "c", -2.0), ("a", "nobody's", 9.0), ("c", "a", 1.0)]


@pytest.fixture
def log() -> InteractionLog:
    return InteractionLog.from_arrays(
        [0, 0, 1], [0, 1, 2], user_ids=["u", "v"], item_ids=["a", "b", "c"], timestamps=[5, 6, 7]
    )


def write(folder: Path, pairs: list[tuple[str, str, float]] = PAIRS) -> Path:
    """A folder as Spark writes one."""
    folder.mkdir(exist_ok=True)
    schema = {"item_id": pl.String, "neighbour_id": pl.String, "weight": pl.Float32}
    pl.DataFrame(pairs, schema=schema, orient="row").write_parquet(folder / "part-0.parquet")
    return folder


def test_a_table_becomes_the_channel_that_the_configuration_names(log: InteractionLog, tmp_path: Path) -> None:
    channel = fit_channel(LinearConfig(kind="neighbours", path=write(tmp_path / "table"), decay=0.5), log)
    scores = channel.score(np.array([[0, 2]]), np.array([2]))
    np.testing.assert_array_equal(scores, [[1.0, 0.25, -1.0]])


def test_an_item_keeps_its_strongest_neighbours(log: InteractionLog, tmp_path: Path) -> None:
    channel = read_neighbours(write(tmp_path / "table"), log, 0.5, neighbours=1)
    np.testing.assert_array_equal(channel.matrix().toarray()[0], [0, 0, -2])


def test_a_table_of_another_catalogue_is_refused(log: InteractionLog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no item of the log"):
        read_neighbours(write(tmp_path / "table", [("x", "y", 1.0)]), log, 0.5, 10)


def test_a_weight_that_is_no_number_is_refused(log: InteractionLog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'weight'"):
        read_neighbours(write(tmp_path / "table", [("a", "b", float("nan"))]), log, 0.5, 10)


def test_a_file_that_is_no_table_is_refused(log: InteractionLog, tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_text("nothing")
    with pytest.raises(DataError, match="not a Parquet table"):
        read_neighbours(tmp_path / "table.parquet", log, 0.5, 10)


def test_a_kind_that_needs_no_table_takes_none() -> None:
    with pytest.raises(ConfigError, match="`neighbours` needs a path"):
        Config.parse({"retriever": {"linear": [{"kind": "ease", "path": "table"}]}})


def test_a_new_table_at_the_same_path_is_another_run(tmp_path: Path) -> None:
    config = Config.parse({"retriever": {"linear": [{"kind": "neighbours", "path": str(write(tmp_path / "table"))}]}})
    before = fingerprint(config)
    write(tmp_path / "table", PAIRS[:1])
    assert fingerprint(config) != before


def test_the_training_log_has_an_event_a_row(log: InteractionLog, tmp_path: Path) -> None:
    write_training_log(log, tmp_path / "train.parquet")
    assert pl.read_parquet(tmp_path / "train.parquet").rows() == [("u", "a", 5), ("u", "b", 6), ("v", "c", 7)]
