"""Profiles as they were known before each event."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.schema import Event
from shortlist.profiles.known import export, known_before
from shortlist.profiles.state import EMPTY
from tests.profiles.making import NOON, event, facts, pairs, profile_of, stream


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, Event]]:
    """(appended_ms, event) of one user in the log's order: delays of 0 to 50 ms, some events sent twice."""
    happened = draw(st.lists(st.integers(0, 200), min_size=1, max_size=30))
    sent = [(at + draw(st.integers(0, 50)), event(f"i{i}", at=NOON + at)) for i, at in enumerate(happened)]
    sent += [(at + 100, one) for at, one in sent if draw(st.integers(0, 9)) == 0]
    return [(NOON + at, one) for at, one in sorted(sent, key=lambda pair: pair[0])]


@given(arrivals())
def test_nothing_of_an_events_own_time_or_later_is_in_its_row(log: list[tuple[int, Event]]) -> None:
    for one, profile in known_before(log, facts):
        assert profile.updated_ms < one.timestamp_ms


@given(arrivals())
def test_a_row_is_what_a_request_at_that_moment_could_see(log: list[tuple[int, Event]]) -> None:
    for one, profile in known_before(log, facts):
        seen = [other for appended, other in log if appended < one.timestamp_ms]
        assert profile == (profile_of(seen) if seen else EMPTY)


@given(arrivals(), st.data())
def test_what_comes_later_cannot_change_a_row(log: list[tuple[int, Event]], data: st.DataObject) -> None:
    rows = list(known_before(log, facts))
    one, profile = rows[data.draw(st.integers(0, len(rows) - 1))]
    past = [pair for pair in log if pair[0] < one.timestamp_ms]
    other_future = [(one.timestamp_ms + 60, one), (one.timestamp_ms + 61, event("other", at=one.timestamp_ms + 61))]
    assert next(p for e, p in known_before(past + other_future, facts) if e.event_id == one.event_id) == profile


@given(arrivals())
def test_every_applied_event_has_one_row(log: list[tuple[int, Event]]) -> None:
    assert sorted(e.event_id for e, _ in known_before(log, facts)) == sorted({e.event_id for _, e in log})


@given(arrivals())
def test_an_imported_log_knows_what_had_happened_before(log: list[tuple[int, Event]]) -> None:
    imported = [(NOON * 2, one) for _, one in log]
    for one, profile in known_before(imported, facts, "happened"):
        before = {e.event_id for _, e in log if e.timestamp_ms < one.timestamp_ms}
        assert (profile.version, profile.updated_ms < one.timestamp_ms) == (len(before), True)


@pytest.fixture
def imported(tmp_path: Path) -> LocalSource:
    """A log of old events, all appended just now."""
    log = LocalLog(tmp_path / "log", partitions=2)
    log.append(pairs(stream(500, users=20)))
    log.close()
    return LocalSource(tmp_path / "log")


def test_the_export_is_parquet_with_a_row_an_applied_event(imported: LocalSource, tmp_path: Path) -> None:
    rows = export(imported, facts, tmp_path / "out", "happened")
    table = pl.read_parquet(tmp_path / "out")
    assert len(table) == rows == table["event_id"].n_unique()
    assert table.filter(pl.col("updated_ms") >= pl.col("timestamp_ms")).is_empty()
    assert table.filter(pl.col("history").list.len() != pl.col("version")).is_empty()


def test_by_arrival_nothing_was_known_before_events_that_were_imported_afterwards(
    imported: LocalSource, tmp_path: Path
) -> None:
    export(imported, facts, tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out")["version"].max() == 0
