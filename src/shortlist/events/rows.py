"""The rows of a historical log in order of time, each with its line and its millisecond.

Files are read, and rows refused, as training does it (`shortlist.data`), a part at a time: what is too much for memory
waits, sorted, in a folder for temporary files. What event a row becomes is for `importing`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.config import DataConfig
from shortlist.data import ml_100k, movielens, recbole, table
from shortlist.data.clean import MICRO
from shortlist.data.dataset import INTERACTION_SCHEMA
from shortlist.data.read import LINE
from shortlist.data.validate import MICROSECONDS, enforce_limit, no_rejections
from shortlist.errors import DataError
from shortlist.events.dead_letters import MAX_KEPT, DeadLetter

COLUMNS = ("user_id", "item_id", "event", "value", MICRO, LINE)
SAMPLED = 1000  # one row of so many tells where to cut
GROUP = 20_000  # rows of a sorted file that are looked at together
Part = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame | None]
"""Interactions, rejected rows, and all rows as the file has them where that is known."""


@dataclass(eq=False)
class Rows:
    """A log's rows: those that training would take, and those that it refuses."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)  # of rows that training takes, by event
    first_us: int = 0
    last_us: int = 0
    rejected: pl.DataFrame = field(default_factory=no_rejections)  # file, line, column, value, reason
    _cells: list[dict[str, Any]] = field(default_factory=list)  # of the rejected rows, where they are known
    _sorted: list[Path | pl.DataFrame] = field(default_factory=list)
    _largest: int = 1  # rows of a part

    def __len__(self) -> int:
        return self.counts.total() + len(self.rejected)

    @property
    def source(self) -> str:
        """Name of the file."""
        return self.path.name

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows in order of time, then of the file, some at a time: COLUMNS, then the context."""
        if len(self._sorted) == 1:
            yield _read(self._sorted[0])
            return
        cuts = self._cuts()
        for after, until in zip([None, *cuts], [*cuts, None], strict=True):
            chosen = [_within(run, after, until) for run in self._sorted]
            yield pl.concat(pl.collect_all(chosen), how="diagonal_relaxed").sort(MICRO, LINE)

    def letters(self) -> Iterator[DeadLetter]:
        """A dead letter for each rejected row: `topic` is the file, `offset` the line, `raw` the row as JSON."""
        now_ms = time.time_ns() // 1_000_000
        for number, row in enumerate(self.rejected.iter_rows(named=True)):
            raw = _json(self._cells[number] if self._cells else {row["column"]: row["value"]}).encode()
            kept = raw[:MAX_KEPT].decode(errors="ignore")
            yield DeadLetter(self.source, 0, row["line"], now_ms, row["column"], row["reason"], size=len(raw), raw=kept)

    def add(self, part: Part, folder: Path) -> None:
        """Count a part, and keep it: in `folder`, unless it stays the only one."""
        interactions, rejected, raw = part
        if raw is not None:
            refused = pl.col(LINE).is_in(rejected["line"].to_list())
            self._cells += raw.filter(refused).iter_rows(named=True)
        self.rejected = pl.concat([self.rejected, rejected])
        if not len(interactions):
            return
        frame = self._prepared(interactions)
        first, last = frame[MICRO][0], frame[MICRO][-1]
        self.first_us = min(first, self.first_us) if self.counts else first
        self.last_us = max(last, self.last_us)
        self.counts.update(dict(frame.group_by("event").len().iter_rows()))
        self._largest = max(self._largest, len(frame))
        if self._sorted:
            self._sorted = [_written(run, folder / f"{i}.parquet") for i, run in enumerate([*self._sorted, frame])]
        else:
            self._sorted = [frame]

    def _prepared(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """COLUMNS and the context, in order of time."""
        if interactions["timestamp"].null_count():
            raise DataError(f"{self.path}: has no times, and an event says when it happened; name them in data.columns")
        if MICRO not in interactions.columns:
            interactions = interactions.with_columns((pl.col("timestamp") * MICROSECONDS).alias(MICRO))
        if LINE not in interactions.columns:
            interactions = interactions.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))
        others = interactions.select(pl.exclude(*INTERACTION_SCHEMA, MICRO, LINE))
        context = [column.name for column in others if not column.dtype.is_nested()]
        return interactions.select(*COLUMNS, *context).sort(MICRO, LINE)

    def _cuts(self) -> list[int]:
        """Moments between which lie about as many rows as in a part."""
        lazy = [_lazy(run).select(MICRO).gather_every(SAMPLED) for run in self._sorted]
        sample = pl.concat(pl.collect_all(lazy))[MICRO].sort()
        every = max(1, self._largest // SAMPLED)
        return sample.gather_every(every, every).unique().sort().to_list()


@contextmanager
def read_rows(config: DataConfig) -> Iterator[Rows]:
    """The interactions that `config` names, to use within. Raises DataError as training does, and without times."""
    path = _path(config)
    rows = Rows(path)
    with tempfile.TemporaryDirectory() as folder:
        for part in _parts(config, path):
            rows.add(part, Path(folder))
        if not len(rows):
            raise DataError(f"{path}: no rows; expected at least one")
        enforce_limit(rows.rejected, len(rows), config.max_rejected, path)
        yield rows


def _path(config: DataConfig) -> Path:
    if config.source == "ml-100k":
        return ml_100k.fetch() / "ml-100k.inter"
    if config.path is None:
        raise DataError(f"data.path is empty; source {config.source!r} needs the file or folder to read")
    return recbole.find_inter(config.path) if config.source == "recbole" else config.path


def _parts(config: DataConfig, path: Path) -> Iterator[Part]:
    match config.source:
        case "ml-100k" | "recbole":
            yield *recbole.read_interactions(path, max_rejected=1.0, exact=True), None
        case "movielens":
            dataset = movielens.load(path, max_rejected=config.max_rejected)
            ours = pl.col("file").str.starts_with("ratings.")  # not those of films
            yield dataset.interactions, dataset.rejected.filter(ours), None
        case "sequences":
            raise DataError(f"{path}: sequences have no times, and an event says when it happened")
        case "table":
            yield from table.read_log(path, config.columns, config.context_attributes)


def _written(run: Path | pl.DataFrame, path: Path) -> Path:
    if isinstance(run, Path):
        return run
    run.write_parquet(path, compression="lz4", row_group_size=GROUP)
    return path


def _lazy(run: Path | pl.DataFrame) -> pl.LazyFrame:
    return pl.scan_parquet(run) if isinstance(run, Path) else run.lazy()


def _read(run: Path | pl.DataFrame) -> pl.DataFrame:
    return pl.read_parquet(run) if isinstance(run, Path) else run


def _within(run: Path | pl.DataFrame, after: int | None, until: int | None) -> pl.LazyFrame:
    """The rows from the moment `after` on, and before `until`."""
    lazy = _lazy(run)
    if after is not None:
        lazy = lazy.filter(pl.col(MICRO) >= after)
    return lazy if until is None else lazy.filter(pl.col(MICRO) < until)


def _json(cells: dict[str, Any]) -> str:
    given = {name: value for name, value in cells.items() if value is not None and name != LINE}
    return json.dumps(given, ensure_ascii=False, default=str)
