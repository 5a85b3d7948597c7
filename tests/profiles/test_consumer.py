"""From a real log into a real store."""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shortlist.events.consumer import Consumer
from shortlist.events.dead_letters import read_letter
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.meters import Meters, serve
from shortlist.events.transport import OffsetError, Record, drain
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.layout import unpack
from shortlist.profiles.offline import compare
from shortlist.profiles.state import apply
from shortlist.profiles.store import ProfileStore
from tests.profiles.making import DAY, NOON, event, facts, pairs, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the log lies."""
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[LocalLog]:
    """A log of two partitions with 2,000 events of 40 people."""
    opened = LocalLog(folder, partitions=2)
    opened.append(pairs(stream(2000, users=40)))
    yield opened
    opened.close()


@pytest.fixture
def source(log: LocalLog, folder: Path) -> Iterator[LocalSource]:
    """A reader of that log."""
    opened = LocalSource(folder)
    yield opened
    opened.close()


def half(source: LocalSource) -> dict[int, int]:
    return {partition: end // 2 for partition, end in source.ends().items()}


def all_equal(folder: Path, url: str) -> bool:
    """Whether a store is at the end of the log in `folder` with every profile as the log says."""
    source, store = LocalSource(folder), ProfileStore(url)
    try:
        if any(store.offset(source.name, p) != end for p, end in source.ends().items()):
            return False
        found = compare(source, store, facts)
        return found.equal > 0 and not found.different and not found.unknown
    finally:
        source.close()
        store.close()


@contextmanager
def running(consumer: Consumer) -> Iterator[None]:
    """The consumer at work in a thread."""
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield
    finally:
        consumer.stop()
        thread.join(60)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_profiles_equal_those_of_the_log_whatever_the_batches(
    source: LocalSource, store: ProfileStore, folder: Path, server: EmbeddedStore, batch: int
) -> None:
    Consumer(source, store, facts, batch=batch).run(until=source.ends())
    assert all_equal(folder, server.url)


def test_a_small_cache_changes_nothing(
    source: LocalSource, store: ProfileStore, folder: Path, server: EmbeddedStore
) -> None:
    Consumer(source, store, facts, batch=50, cached=3).run(until=source.ends())
    assert all_equal(folder, server.url)


def test_a_restart_goes_on_where_the_store_stands(
    source: LocalSource, store: ProfileStore, folder: Path, server: EmbeddedStore
) -> None:
    Consumer(source, store, facts, batch=100).run(until=half(source))
    second = Consumer(source, store, facts, batch=100)
    second.run(until=source.ends())
    assert sum(second.meters.outcomes.values()) < 1300
    assert all_equal(folder, server.url)


def test_a_zombie_loses_and_goes_where_the_store_is(
    log: LocalLog, source: LocalSource, store: ProfileStore, folder: Path, server: EmbeddedStore
) -> None:
    zombie = Consumer(source, store, facts, batch=100)
    zombie.run(until=half(source))
    other = Consumer(LocalSource(folder), ProfileStore(server.url), facts)
    zombie_goes_on(zombie, other, source.ends())
    assert zombie.meters.refused_commits == 1
    assert all_equal(folder, server.url)


def zombie_goes_on(zombie: Consumer, other: Consumer, ends: dict[int, int]) -> None:
    """Let `other` consume all while `zombie` holds a batch that it has read and not committed."""
    poll = zombie._source.poll

    def poll_slowly(most: int, timeout_s: float) -> list[Record]:
        records = poll(most, timeout_s)
        zombie._source.poll = poll  # type: ignore[method-assign]
        other.run(until=ends)
        return records

    zombie._source.poll = poll_slowly  # type: ignore[method-assign]
    zombie.run(until=ends)


def test_a_store_that_lost_its_memory_is_rebuilt_from_the_beginning_even_if_nothing_happens(
    source: LocalSource, store: ProfileStore, folder: Path, server: EmbeddedStore
) -> None:
    consumer = Consumer(source, ProfileStore(server.url), facts, batch=100)
    with running(consumer):
        assert wait_until(lambda: all_equal(folder, server.url))
        store.command("FLUSHALL")
        assert wait_until(lambda: all_equal(folder, server.url))
    assert consumer.meters.refused_commits == 1


def test_a_store_that_is_down_is_waited_for(log: LocalLog, source: LocalSource, folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with EmbeddedStore(tmp_path / "store") as server:
        consumer = Consumer(source, ProfileStore(server.url), facts, batch=100, tell=told.append)
    with running(consumer):
        assert wait_until(lambda: any("is it running?" in line for line in told))
        log.append(pairs(stream(500, users=40, seed=1, start=NOON + DAY)))
        with EmbeddedStore(tmp_path / "store") as again:
            assert wait_until(lambda: all_equal(folder, again.url))


def test_what_is_refused_is_kept_with_its_reason(store: ProfileStore, tmp_path: Path) -> None:
    log, dead = LocalLog(tmp_path / "log"), LocalLog(tmp_path / "dead")
    now = time.time_ns() // 1_000_000
    log.append([(b"u", b"not an event"), *pairs([event(at=now + DAY), event(at=now), event(at=now - 2 * DAY)])])
    source = LocalSource(tmp_path / "log")
    consumer = Consumer(source, store, facts, dead)
    consumer.run(until=source.ends())
    letters = [read_letter(record.value) for record in drain(LocalSource(tmp_path / "dead"))]
    assert [(letter.offset, letter.field) for letter in letters] == [
        (0, "event"),
        (1, "timestamp_ms"),
        (3, "timestamp_ms"),
    ]
    assert dict(consumer.meters.outcomes) == {"applied": 1, "duplicate": 0, "late": 1, "refused": 2}
    log.close()
    dead.close()


def test_the_profile_in_the_store_is_the_one_the_events_make(store: ProfileStore, tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    clicked = event("i3", session_id="s")
    log.append(pairs([clicked]))
    source = LocalSource(tmp_path / "log")
    Consumer(source, store, facts).run(until=source.ends())
    blob = store.read([b"u"])[0]
    assert blob is not None
    assert unpack(blob) == apply(None, clicked, facts)
    log.close()


def test_a_log_that_lacks_what_comes_next_is_an_error(source: LocalSource, store: ProfileStore) -> None:
    store.commit(source.name, 0, None, 10_000, {})
    with pytest.raises(OffsetError, match="10000"):
        Consumer(source, store, facts).run()


def test_metrics_count_every_record_and_are_served(source: LocalSource, store: ProfileStore) -> None:
    consumer = Consumer(source, store, facts)
    consumer.run(until=source.ends())
    total = sum(source.ends().values())
    server = serve(consumer.meters, port=0)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    server.shutdown()
    server.server_close()
    assert sum(int(v) for name, v in lines.items() if name.startswith("shortlist_events_total")) == total
    assert lines["shortlist_events_visible_seconds_count"] == str(total)
    assert lines['shortlist_events_visible_seconds_bucket{le="+Inf"}'] == str(total)


def test_lag_is_what_is_not_in_the_profiles_yet(log: LocalLog, source: LocalSource, store: ProfileStore) -> None:
    consumer = Consumer(source, store, facts)
    consumer.run(until=source.ends())
    log.append(pairs(stream(10, users=1, seed=2)))
    consumer._measured = 0.0
    consumer._measure()
    assert sum(consumer.meters.lag.values()) >= 10


def test_an_untouched_meter_has_every_name() -> None:
    assert 'shortlist_events_total{outcome="late"} 0' in Meters().text()
