"""Historical logs as events: what training reads is what profiles then hold, each row once."""

import json
import random
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.config import DataConfig
from shortlist.data import parts
from shortlist.data.dataset import load_dataset
from shortlist.errors import ConfigError, DataError
from shortlist.events import importing
from shortlist.events.dead_letters import DeadLetter, read_letter
from shortlist.events.importing import Report, choose_types, import_rows, marks_in
from shortlist.events.kafka import create_topic
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.rows import read_rows
from shortlist.events.schema import Event, parse
from shortlist.events.transport import Sink, TransportError, drain, open_sink, open_source
from shortlist.profiles.facts import no_facts
from shortlist.profiles.offline import Fold
from shortlist.profiles.state import HISTORY, RETENTION_S, Profile
from tests.broker import Broker
from tests.events.making import NOON_MS

DAY_MS = 86_400_000
Row = dict[str, Any]


def write(path: Path, rows: Sequence[Row]) -> Path:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    return path


def clicks(count: int, users: int = 8, seed: int = 0) -> list[Row]:
    """Rows in no order of time, many of one second; some people come back after half a year."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        late = rng.choice([0, 0, 0, 200]) * DAY_MS
        moment = NOON_MS + late + 1000 * rng.randrange(400)
        row = {"user_id": f"u{rng.randrange(users)}", "item_id": f"i{rng.randrange(90)}"}
        rows.append(row | {"event": "click", "timestamp": moment})
    return rows


def bring(path: Path, log: Path, *, dead: Path | None = None, others: str | None = None, **said: str) -> Report:
    """Import a table, as the command does."""
    with ExitStack() as stack:
        rows = stack.enter_context(read_rows(DataConfig(source="table", path=path, max_rejected=0.9)))
        types = choose_types(rows, said, others)
        sink = stack.enter_context(closing(LocalLog(log, partitions=2)))
        buried = stack.enter_context(closing(LocalLog(dead))) if dead else None
        return import_rows(rows, types, marks_in(str(log)), sink, buried)


def events_in(log: Path) -> list[Event]:
    return [parse(record.value) for record in drain(LocalSource(log))]


def profiles_of(log: Path) -> dict[bytes, Profile]:
    fold = Fold(LocalSource(log), no_facts)
    fold.up_to(fold.source.ends())
    return fold.profiles


def letters_in(log: Path) -> list[DeadLetter]:
    return [read_letter(record.value) for record in drain(LocalSource(log))]


def kept(items: list[str], times: list[int]) -> list[str]:
    """Of a training history what a profile keeps: what came after the last long silence, and the newest of it."""
    silences = [at for at in range(1, len(times)) if times[at] - times[at - 1] > RETENTION_S]
    return items[max(silences, default=0) :][-HISTORY:]


def test_profiles_hold_the_histories_of_training(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", clicks(2500))
    bring(path, tmp_path / "log")
    log = load_dataset(DataConfig(source="table", path=path)).log()
    wanted = {}
    for user, name in enumerate(log.user_ids):
        times = log.timestamps[log.offsets[user] : log.offsets[user + 1]].tolist()
        wanted[name.encode()] = kept([log.item_ids[row] for row in log.history(user)], times)
    assert min(map(len, wanted.values())) < HISTORY < max(np.diff(log.offsets))
    assert {u: [item.decode() for item, *_ in p.history] for u, p in profiles_of(tmp_path / "log").items()} == wanted


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_a_log_that_is_read_in_parts_is_imported_as_if_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = [row | {"event": "rating", "value": 9 if at % 100 == 99 else 3} for at, row in enumerate(clicks(900))]
    bring(write(tmp_path / name, rows), tmp_path / "whole", dead=tmp_path / "dead whole")
    monkeypatch.setattr(parts, "PART_ROWS", 150)
    monkeypatch.setattr(parts, "PART_BYTES", 7000)
    bring(tmp_path / name, tmp_path / "log", dead=tmp_path / "dead")
    assert events_in(tmp_path / "log") == events_in(tmp_path / "whole")
    assert [d.offset for d in letters_in(tmp_path / "dead")] == [d.offset for d in letters_in(tmp_path / "dead whole")]


def test_a_second_run_appends_nothing_whatever_form_the_data_have(tmp_path: Path) -> None:
    rows = clicks(300)
    bring(write(tmp_path / "a.csv", rows), tmp_path / "log")
    for name in ("b.parquet", "c.jsonl", "a.csv"):
        report = bring(write(tmp_path / name, rows[::-1]), tmp_path / "log")
        assert (report.appended, report.there) == (0, 300)
    assert len(events_in(tmp_path / "log")) == 300


def test_of_a_log_that_grew_only_the_new_rows_are_appended(tmp_path: Path) -> None:
    rows = clicks(300)
    bring(write(tmp_path / "a.csv", rows[:200]), tmp_path / "log")
    assert bring(write(tmp_path / "b.csv", rows), tmp_path / "log").appended == 100


def test_rows_that_say_the_same_are_as_many_events(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", clicks(1) * 3)
    assert bring(path, tmp_path / "log").appended == 3
    assert len({event.event_id for event in events_in(tmp_path / "log")}) == 3


class Failing:
    """A sink that takes some batches, and the first half of the next one."""

    def __init__(self, log: Sink, batches: int) -> None:
        self._log, self._left = log, batches

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        if not self._left:
            self._log.append(records[: len(records) // 2])
            raise TransportError("the disk is full")
        self._left -= 1
        self._log.append(records)

    def close(self) -> None:
        self._log.close()


def test_an_interrupted_import_goes_on_and_profiles_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 100)
    path = write(tmp_path / "a.csv", clicks(1000))
    bring(path, tmp_path / "whole")
    sink = Failing(LocalLog(tmp_path / "log", partitions=2), batches=4)
    with read_rows(DataConfig(source="table", path=path)) as rows, pytest.raises(TransportError):
        import_rows(rows, choose_types(rows, {}), marks_in(str(tmp_path / "log")), sink)
    sink.close()
    assert bring(path, tmp_path / "log").appended == 550
    assert profiles_of(tmp_path / "log") == profiles_of(tmp_path / "whole")


def test_an_interrupted_import_into_a_topic_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH", 100)
    broker = Broker(tmp_path / "broker")
    broker.start()
    try:
        create_topic(broker.servers, "history", 3)
        where = f"kafka://{broker.servers}/history"
        sink = open_sink(where)
        with read_rows(DataConfig(source="table", path=write(tmp_path / "a.csv", clicks(500)))) as rows:
            types = choose_types(rows, {})
            with pytest.raises(TransportError):
                import_rows(rows, types, marks_in(where), Failing(sink, batches=2))
            assert import_rows(rows, types, marks_in(where), sink).there == 250
        sink.close()
        source = open_source(where)
        found = sorted(parse(record.value).event_id for record in drain(source))
        source.close()
    finally:
        broker.stop()
    assert len(found) == len({*found}) == 500


def test_profiles_take_no_event_again_that_the_log_has_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", clicks(2000))
    bring(path, tmp_path / "log")
    before = profiles_of(tmp_path / "log")
    sink = LocalLog(tmp_path / "log")
    with read_rows(DataConfig(source="table", path=path)) as rows:
        import_rows(rows, choose_types(rows, {}), np.empty(0, np.uint64), sink)  # as if nothing were there
    sink.close()
    assert len(events_in(tmp_path / "log")) == 4000
    assert profiles_of(tmp_path / "log") == before


def test_refused_rows_are_dead_letters_with_line_and_reason(tmp_path: Path) -> None:
    good: Row = {"user_id": "u", "item_id": "i", "event": "rating", "value": "4", "timestamp": str(NOON_MS)}
    future, long = "4000000000000", "x" * 65
    bad = [{"user_id": ""}, {"timestamp": "soon"}, {"value": "9"}, {"timestamp": future}, {"item_id": long}]
    path = write(tmp_path / "a.csv", [good, *[good | change for change in bad]])
    report = bring(path, tmp_path / "log", dead=tmp_path / "dead")
    assert (report.rows, report.appended, report.refused.total()) == (6, 1, 5)
    letters = {letter.offset: (letter.topic, letter.field) for letter in letters_in(tmp_path / "dead")}
    wrong = ("user_id", "timestamp", "value", "timestamp_ms", "item_id")
    assert letters == {line: ("a.csv", field) for line, field in enumerate(wrong, start=3)}
    assert json.loads(letters_in(tmp_path / "dead")[1].value)["timestamp"] == "soon"


def test_events_have_the_milliseconds_values_and_context_of_their_rows(tmp_path: Path) -> None:
    row = {"user_id": 7, "item_id": 8, "event": "rating", "value": 4, "timestamp": NOON_MS + 5, "device": "phone"}
    path = write(tmp_path / "a.parquet", [row, row | {"device": None, "timestamp": NOON_MS + 6}])
    sink = LocalLog(tmp_path / "log")
    with read_rows(DataConfig(source="table", path=path, context_attributes={"device": "category"})) as rows:
        import_rows(rows, choose_types(rows, {}), marks_in(str(tmp_path / "log")), sink)
    sink.close()
    found = [(e.user_id, e.value, e.timestamp_ms, e.context) for e in events_in(tmp_path / "log")]
    assert found == [("7", 4.0, NOON_MS + 5, {"device": "phone"}), ("7", 4.0, NOON_MS + 6, None)]


KINDS = [
    {"user_id": "u", "item_id": "i", "event": name, "value": 12.5, "timestamp": NOON_MS + at}
    for at, name in enumerate(["view", "buy", "test", "heart"])
]


def test_kinds_of_event_become_the_types_that_they_are_said_to_be(tmp_path: Path) -> None:
    said = {"view": "dwell", "buy": "share", "test": ""}
    report = bring(write(tmp_path / "a.csv", KINDS), tmp_path / "log", others="like", **said)
    found = [(e.type, e.value) for e in events_in(tmp_path / "log")]
    assert found == [("dwell", 12.5), ("share", None), ("like", None)]
    assert (dict(report.left_out), dict(report.valueless)) == ({"test": 1}, {"buy": 1, "heart": 1})


@pytest.mark.parametrize(
    ("said", "others", "message"),
    [
        ({"buy": "like"}, None, r"no type of event: 'heart' \(1 rows\), 'test' \(1 rows\)"),
        ({"buy": "purchase"}, "click", "--type 'purchase': one of click"),
        ({"bye": "like"}, "click", "no row says 'bye'; the data have"),
    ],
)
def test_kinds_without_a_type_are_named(tmp_path: Path, said: dict[str, str], others: str | None, message: str) -> None:
    config = DataConfig(source="table", path=write(tmp_path / "a.csv", KINDS))
    with read_rows(config) as rows, pytest.raises(ConfigError, match=message):
        choose_types(rows, said, others)


def test_rows_without_times_are_no_events(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"user_id": "u", "item_id": "i"}])
    with pytest.raises(DataError, match="has no times"), read_rows(DataConfig(source="table", path=path)):
        pass


def test_a_folder_that_is_too_small_for_the_rows_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "RETENTION_BYTES", 1000)
    told: list[str] = []
    sink = LocalLog(tmp_path / "log")
    with read_rows(DataConfig(source="table", path=write(tmp_path / "a.csv", clicks(50)))) as rows:
        import_rows(rows, choose_types(rows, {}), marks_in(str(tmp_path / "log")), sink, tell=told.append)
    sink.close()
    assert "have a consumer run meanwhile" in told[0]
