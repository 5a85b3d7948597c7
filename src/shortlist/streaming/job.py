"""One micro-batch of the job, exactly once into Parquet and the profile store, wherever it is interrupted.

    1. outcomes/batch=N   what every record came to and every profile it moved: one write, complete or absent
    2. the store          profiles and offset of each partition of the log, in one atomic commit each
    3. offsets/N.json     where the store stands then

Only 1 depends on the store, which stays at the end of batch N-1 until 1 is complete; what follows can be repeated with
the same result. Spark replays a batch under the same number with the same records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from shortlist.errors import DataError
from shortlist.profiles.store import ProfileStore
from shortlist.streaming.files import is_complete, read_json, remove, write_json
from shortlist.streaming.steps import OUTCOMES, STORE_TIMEOUT_S, Step, step_through
from shortlist.streaming.tables import fold

REACHED = "partition int, next long"


@dataclass(frozen=True)
class Job:
    """What a job is told; `process` is for `foreachBatch`."""

    topic: str
    store: str  # URL of the profile store
    out: str  # folder or URI of the tables
    bundle: str | None  # folder on every executor, for the items' categories
    width_s: int  # of a window
    tasks: int  # that a batch is cut into
    fold_every: int  # batches

    def process(self, records: DataFrame, batch: int) -> None:
        """Everything that one batch changes. Raises DataError where the store is not where the job left it."""
        folder = f"{self.out}/outcomes/batch={batch}"
        if not is_complete(folder):
            self.check_store(batch)
            step = Step(self.store, self.topic, self.bundle, self.width_s)
            step_through(records, step, self.tasks).write.mode("overwrite").parquet(folder)
        self.commit(records.sparkSession.read.schema(OUTCOMES).parquet(folder), batch)
        if batch % self.fold_every == self.fold_every - 1:
            fold(records.sparkSession, self.out, batch, self.width_s)

    def check_store(self, batch: int) -> None:
        """Before a batch the store must stand where the batch before left it."""
        store = ProfileStore(self.store, timeout_s=STORE_TIMEOUT_S)
        try:
            for partition, offset in self._left_by(batch - 1).items():
                held = store.offset(self.topic, int(partition))
                if held != offset:
                    raise DataError(
                        f"profile store: offset {held} of {self.topic}, partition {partition}, where this job left "
                        f"{offset}: another consumer writes there, or the store lost its memory. Stop the other, or "
                        "start with an empty --out: the job then goes on from where the store stands"
                    )
        finally:
            store.close()

    def commit(self, outcomes: DataFrame, batch: int) -> None:
        """Bring the store to the end of the batch, and write down where that is."""
        rows = outcomes.select("partition", "offset", "user_id", "profile")
        reached = rows.groupBy("partition").applyInArrow(_committer(self.topic, self.store), REACHED).collect()
        left = self._left_by(batch - 1) | {str(row.partition): row.next for row in reached}
        write_json(f"{self.out}/offsets/{batch}.json", left)
        remove(f"{self.out}/offsets/{batch - 2}.json")

    def _left_by(self, batch: int) -> dict[str, int]:
        """Partition -> the offset that the store had after `batch`; nothing before the first."""
        found: dict[str, int] = read_json(f"{self.out}/offsets/{batch}.json") if batch >= 0 else {}
        return found


def _committer(topic: str, url: str) -> Callable[[pa.Table], pa.Table]:
    """A function of the outcomes of one partition of the log: commits its profiles, gives the offset reached."""

    def commit(rows: pa.Table) -> pa.Table:
        partition, first = rows["partition"][0].as_py(), pc.min(rows["offset"]).as_py()
        after = pc.max(rows["offset"]).as_py() + 1
        moved = rows.filter(pc.is_valid(rows["profile"]))
        blobs = dict(zip(moved["user_id"].to_pylist(), moved["profile"].to_pylist(), strict=True))
        store = ProfileStore(url, timeout_s=STORE_TIMEOUT_S)
        try:
            held = store.offset(topic, partition)
            done = held == after  # by an earlier try
            if not done and ((held or 0) > first or not store.commit(topic, partition, held, after, blobs)):
                raise DataError(
                    f"profile store: offset {store.offset(topic, partition)} of {topic}, partition {partition}, while "
                    f"records {first} to {after - 1} are committed: another consumer writes there; stop one of them"
                )
        finally:
            store.close()
        return pa.table({"partition": pa.array([partition], pa.int32()), "next": pa.array([after], pa.int64())})

    return commit
