"""Counts of what is taken to: they fade, they are the same on every replay, and they survive their consumer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.events import trending
from shortlist.events.consumer import Consumer
from shortlist.events.items import TRENDING
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.schema import Event, encode
from shortlist.events.transport import Record
from shortlist.events.trending import TrendKeeper, Trends
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore

NOON = 1_700_000_000_000
HOUR = 3_600_000


def event(item: str, hours: float = 0, type_: str = "like") -> Event:
    return Event(event_id="e", user_id="u", item_id=item, type=type_, timestamp_ms=NOON + round(hours * HOUR))


def counted(*events: Event) -> Trends:
    trends = Trends()
    for one in events:
        trends.add(one, one.timestamp_ms)
    return trends


def shares(trends: Trends) -> dict[str, list[float]]:
    """Each item's share of what was counted, by window."""
    document = trends.document()
    return {i: [c / t for c, t in zip(counts, document["totals"], strict=True)] for i, *counts in document["items"]}


def test_an_event_counts_half_after_an_hour_in_one_window_and_after_a_day_in_the_other() -> None:
    after_an_hour = shares(counted(event("old"), event("new", hours=1)))
    after_a_day = shares(counted(event("old"), event("new", hours=24)))
    assert after_an_hour["old"][0] == pytest.approx(1 / 3)
    assert after_a_day["old"][1] == pytest.approx(1 / 3)


def test_only_what_people_take_to_counts() -> None:
    assert shares(counted(event("a"), event("b", type_="dislike"), event("c", type_="skip"))) == {"a": [1.0, 1.0]}


def test_an_event_of_a_time_to_come_counts_as_of_now() -> None:
    trends, honest = Trends(), Trends()
    trends.add(event("a", hours=1000), NOON)
    honest.add(event("a"), NOON)
    assert trends.document() == honest.document()


def test_counts_of_months_stay_in_bounds() -> None:
    trends = counted(*(event(f"i{n % 7}", hours=n) for n in range(3000)))
    document = trends.document()
    assert 0 < document["totals"][0] < 2.0**60
    assert shares(trends)["i3"][1] == pytest.approx(1 / 7, rel=0.1)  # the last of the 3,000


def test_stored_counts_go_on_in_every_bit() -> None:
    events = [event(f"i{n * n % 97}", hours=n / 7) for n in range(2000)]
    whole = counted(*events)
    first = Trends.of(json.loads(json.dumps(counted(*events[:777]).document())))
    for one in events[777:]:
        first.add(one, one.timestamp_ms)
    assert first.document() == whole.document()


def test_the_strongest_items_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending, "KEPT", 20)
    trends = counted(*(event(item) for n in range(500) for item in (f"i{n}", f"i{n % 5}")))
    assert {f"i{n}" for n in range(5)} <= set(shares(trends))
    assert len(shares(trends)) < 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProfileStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield ProfileStore(running.url)


def keeper(store: ProfileStore, offset: int | None) -> TrendKeeper:
    made = TrendKeeper(store, "log")
    made.place(0, offset)
    return made


def test_a_consumer_that_starts_again_goes_on_counting(store: ProfileStore) -> None:
    first = keeper(store, None)
    first.add(Record(0, 0, b"", NOON), event("a"))
    first.committed(0, 1)
    first.write({0})
    second = keeper(store, 1)
    second.add(Record(0, 1, b"", NOON), event("a"))
    assert second._trends[0].document()["totals"] == [2 * t for t in first._trends[0].document()["totals"]]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"offset": 0, "half_lives_s": [1], "at_ms": 0, "totals": [0], "items": []}',
        *(
            b'{"offset": 0, "half_lives_s": [3600, 86400], "at_ms": 0, "totals": %b, "items": %b}' % parts
            for parts in (
                (b"[1]", b"[]"),
                (b'["1", "1"]', b"[]"),
                (b"[1, 1]", b'[["a", 1]]'),
                (b"[1, 1]", b"[[3, 1, 1]]"),
                (b"[1, 1]", b'[["", "x", "y"]]'),
            )
        ),
    ],
)
def test_what_nobody_can_read_counts_nothing_and_stops_nobody(store: ProfileStore, document: bytes) -> None:
    store.command("FLUSHALL")
    test_a_consumer_that_starts_again_goes_on_counting(store)
    field, ours = store.command("HGETALL", TRENDING)
    store.command("HSET", TRENDING, field, document, "another", ours)
    assert keeper(store, 1)._trends[0].document()["items"] == []
    assert trending.readable(store.command("HVALS", TRENDING)) == [json.loads(ours)]


@pytest.mark.parametrize("offset", [None, 0], ids=["nothing", "an earlier offset"])
def test_a_log_that_is_read_from_before_is_counted_anew(store: ProfileStore, offset: int | None) -> None:
    test_a_consumer_that_starts_again_goes_on_counting(store)
    assert keeper(store, offset)._trends[0].document()["items"] == []


def test_partitions_of_others_are_not_written(store: ProfileStore) -> None:
    store.command("FLUSHALL")
    ours = keeper(store, None)
    ours.add(Record(0, 0, b"", NOON), event("a"))
    ours.committed(0, 1)
    ours.write({1, 2})
    assert store.command("HLEN", TRENDING) == 0


def consumed(folder: Path, store: ProfileStore, halves: int) -> list[dict[str, object]]:
    """What the store says of the trends after the log was consumed, in so many starts, from the beginning."""
    store.command("FLUSHALL")
    for part in range(1, halves + 1):
        source = LocalSource(folder)
        Consumer(source, store, lambda _: ()).run(until={p: end * part // halves for p, end in source.ends().items()})
        source.close()
    return sorted(map(json.loads, store.command("HVALS", TRENDING)), key=lambda document: -document["totals"][0])


def test_a_replay_gives_the_same_trends_however_often_it_is_interrupted(tmp_path: Path, store: ProfileStore) -> None:
    log = LocalLog(tmp_path / "log", partitions=2)
    events = [
        Event(
            event_id=f"e{n}", user_id=f"u{n % 9}", item_id=f"i{n * n % 13}", type="like", timestamp_ms=NOON + n * 1000
        )
        for n in range(1500)
    ]
    log.append([(one.user_id.encode(), encode(one)) for one in events])
    log.close()
    once, thrice = consumed(tmp_path / "log", store, 1), consumed(tmp_path / "log", store, 3)
    assert thrice == once
    assert sum(len(document["items"]) for document in once) >= 13  # type: ignore[arg-type]
