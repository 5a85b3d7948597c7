"""Item-item channels computed elsewhere, such as ALS on Spark: the log that goes out, the table that comes back.

The log is that of the split's training events: weights that know what validation and test hold would be overrated. A
table is Parquet with `item_id`, `neighbour_id` and `weight`; how it was computed is not asked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from shortlist.config import Config
from shortlist.data.log import InteractionLog
from shortlist.errors import DataError
from shortlist.models.linear import LinearChannel, truncate

COLUMNS = {"item_id": pl.String, "neighbour_id": pl.String, "weight": pl.Float32}


def write_training_log(log: InteractionLog, path: Path) -> None:
    """Write the events of `log`, which is a split's `train`, as Parquet: user_id, item_id, timestamp."""
    columns = {
        "user_id": np.asarray(log.user_ids, object)[log.users()],
        "item_id": np.asarray(log.item_ids, object)[log.rows],
        "timestamp": log.timestamps,
    }
    pl.DataFrame(columns, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}).write_parquet(
        path
    )


def read_neighbours(path: Path, log: InteractionLog, decay: float, neighbours: int) -> LinearChannel:
    """The channel of a table (a file or Spark's folder of files), for the items of `log`; others are left out.

    Each item keeps its `neighbours` weights of largest magnitude. Raises DataError for a table that cannot be read,
    has other columns or weights that are no numbers, or knows no item of the log.
    """
    table = _read(path)
    rows = pl.DataFrame({"item_id": log.item_ids}, schema={"item_id": pl.String}).with_row_index("row")
    pairs = table.join(rows, on="item_id").join(rows, left_on="neighbour_id", right_on="item_id", suffix="_neighbour")
    if not len(pairs):
        raise DataError(f"{path}: no item of the log is among its {len(table)} pairs; was it made of another log?")
    weights, sources, targets = (pairs[name].to_numpy() for name in ("weight", "row", "row_neighbour"))
    if not np.isfinite(weights).all():
        raise DataError(f"{path}: column 'weight' holds what is no finite number; numbers are allowed")
    return truncate(sparse.csr_matrix((weights, (sources, targets)), (log.n_items, log.n_items)), neighbours, decay)


def fingerprint(config: Config) -> str:
    """SHA-256 of all tables that `config` names; of nothing where it names none. Raises DataError."""
    digest = hashlib.sha256()
    for path in (settings.path for settings in config.retriever.linear if settings.path is not None):
        for file in _files(path):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> pl.DataFrame:
    try:
        table = pl.concat([pl.read_parquet(file) for file in _files(path)])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: not a Parquet table ({error})") from error
    if dict(table.schema) != COLUMNS:
        raise DataError(f"{path}: columns are {dict(table.schema)}; {COLUMNS} are allowed")
    return table


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: holds no Parquet file; make it with `python -m shortlist.streaming.als`")
    return files
