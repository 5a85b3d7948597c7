from collections import Counter

import pytest

from shortlist.profiles.facts import no_facts
from shortlist.streaming.aggregate import Window, aggregate, click_through, counted, popularity
from tests.streaming.logs import BEGAN_MS, event, in_partitions, write_events

HOUR_MS = 3_600_000


def found_in(*events: object) -> dict[Window, Counter[str]]:
    from shortlist.events.schema import encode

    records = [(e.user_id, encode(e), e.timestamp_ms) for e in events]
    return aggregate(in_partitions(records, 2), no_facts).windows


def test_events_count_in_the_window_of_their_own_time() -> None:
    early, late = event(1, "u", "i", "click", BEGAN_MS + HOUR_MS - 1), event(2, "u", "i", "click", BEGAN_MS + HOUR_MS)
    assert set(found_in(early, late)) == {Window(BEGAN_MS, "i"), Window(BEGAN_MS + HOUR_MS, "i")}


def test_an_event_sent_twice_counts_once() -> None:
    once = event(1, "u", "i", "click", BEGAN_MS)
    assert found_in(once, once)[Window(BEGAN_MS, "i")] == {"click": 1, "positive": 1}


def test_an_event_of_the_day_before_yesterday_does_not_count() -> None:
    newest, late = event(1, "u", "i", "view", BEGAN_MS), event(2, "u", "i", "view", BEGAN_MS - 48 * HOUR_MS)
    assert len(found_in(newest, late)) == 1


def test_every_record_is_counted_or_refused() -> None:
    records = in_partitions(write_events(2000), 3)
    found = aggregate(records, no_facts)
    counts = sum(n for window in found.windows.values() for name, n in window.items() if name != "positive")
    assert counts + len(found.refused) == len(records)


def test_a_dislike_is_not_positive() -> None:
    assert counted(event(1, "u", "i", "dislike", 0)) == ["dislike"]


@pytest.mark.parametrize(("clicks", "views", "rate"), [(1, 4, 0.25), (0, 3, 0.0), (2, 0, None)])
def test_click_through_is_clicks_for_each_view(clicks: int, views: int, rate: float | None) -> None:
    assert click_through(clicks, views) == rate


def test_an_event_as_old_as_the_half_life_counts_half() -> None:
    assert popularity([(0, 4), (1_000_000, 1)], now_ms=1_000_000, half_life_s=1000) == 3.0
