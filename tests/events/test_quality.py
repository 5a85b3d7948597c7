import random
from collections.abc import Sequence

import numpy as np
import pytest

from shortlist.events.quality import assess, impute
from shortlist.events.schema import Event, encode
from shortlist.events.transport import Record
from tests.events.making import NOON_MS, event


def records(events: Sequence[Event | bytes], delay_ms: int = 1_000) -> list[Record]:
    """As a log has them that took them after `delay_ms`."""
    raw = [e if isinstance(e, bytes) else encode(e) for e in events]
    return [Record(0, offset, value, NOON_MS + delay_ms) for offset, value in enumerate(raw)]


def test_values_sessions_and_context_that_lack_are_counted() -> None:
    some = [event(1, type="dwell", value=3.0, session_id="s", context={"device": "phone"})]
    more = [event(n, type="dwell", context={"device": "tv", "locale": "de"}) for n in (2, 3, 4)]
    missing = assess(records(some + more)).missing()
    assert missing == {"value of dwell": 0.75, "session_id": 0.75, "context.device": 0.0, "context.locale": 0.25}


def test_an_event_id_met_before_is_a_duplicate() -> None:
    assert assess(records([event(1), event(2), event(1), event(1)])).duplicate == 2


@pytest.mark.parametrize(("delay_ms", "late", "early"), [(59_000, 0, 0), (61_000, 1, 0), (-61_000, 0, 1)])
def test_late_and_early_are_told_by_the_time_of_arrival(delay_ms: int, late: int, early: int) -> None:
    quality = assess(records([event()], delay_ms), late_after_ms=60_000)
    assert (quality.late, quality.early) == (late, early)


def test_lines_of_a_file_arrive_with_the_newest_so_far() -> None:
    times = [NOON_MS, NOON_MS - 61_000, NOON_MS - 59_000]
    lines = [Record(0, n, encode(event(n, timestamp_ms=time)), 0) for n, time in enumerate(times)]
    assert assess(lines, late_after_ms=60_000).late == 1


def test_out_of_range_is_told_apart_from_other_refusals() -> None:
    quality = assess(records([event(1), encode(event(2, type="rating", value=9.0)), b'{"event_id": "e"}']))
    assert (quality.refused, quality.out_of_range) == ({"value": 1, "user_id": 1}, {"value": 1})


def test_the_document_gives_shares_of_what_they_are_shares_of() -> None:
    document = assess(records([event(1), event(1), event(2), event(3), b"{}"])).to_document()
    assert (document["refused"]["share"], document["duplicate"]["share"]) == (0.2, 0.25)


def test_an_empty_stream_has_no_shares() -> None:
    assert assess([]).to_document()["missing"] == {}


def rated(user: str, item: str, value: float | None, number: int = 0) -> Event:
    return event(number, type="rating", user_id=user, item_id=item, value=value)


@pytest.mark.parametrize(("method", "expected"), [("mean", 3.0), ("median", 2.0), ("user_mean", 1.5)])
def test_a_missing_value_becomes_the_average_that_was_chosen(method: str, expected: float) -> None:
    known = [rated("ann", "a", 1.0), rated("ann", "b", 2.0), rated("bob", "a", 2.0), rated("bob", "b", 5.0)]
    filled = impute([*known, rated("bob", "c", 5.0), rated("ann", "c", None)], method)
    assert (filled[-1].value, filled[-1].imputed) == (expected, method)


def test_people_without_a_value_get_the_mean_of_all() -> None:
    filled = impute([rated("ann", "a", 1.0), rated("ann", "b", 4.0), rated("eve", "a", None)], "user_mean")
    assert filled[-1].value == 2.5


def test_types_are_filled_in_from_their_own_kind() -> None:
    filled = impute([rated("ann", "a", 5.0), event(1, type="dwell"), event(2, type="dwell", value=60.0)], "mean")
    assert filled[1].value == 60.0


def test_what_was_imputed_before_teaches_nothing() -> None:
    before = event(1, type="rating", value=1.0, imputed="mean")
    assert impute([before, rated("ann", "a", 5.0), rated("ann", "b", None)], "mean")[-1].value == 5.0


def test_what_has_a_value_or_needs_none_stays_as_it_is() -> None:
    events = [rated("ann", "a", 1.0), event(1), event(2, type="dwell"), event(3, type="view")]
    assert impute(events, "knn") == events


def test_neighbours_come_closer_than_averages_where_person_and_item_both_matter() -> None:
    generate = random.Random(0)
    generosity = [generate.uniform(-1, 1) for _ in range(60)]
    charm = [generate.uniform(-1, 1) for _ in range(40)]
    pairs = [(u, i) for u in range(60) for i in range(40) if generate.random() < 0.5]
    truth = [3 + generosity[u] + charm[i] for u, i in pairs]
    hidden = [generate.random() < 0.2 for _ in pairs]
    events = [
        rated(f"u{u}", f"i{i}", None if gone else value, number)
        for number, ((u, i), value, gone) in enumerate(zip(pairs, truth, hidden, strict=True))
    ]

    def error(method: str) -> float:
        filled = np.array([e.value for e in impute(events, method)])
        return float(np.sqrt(np.mean((filled - truth)[hidden] ** 2)))

    assert error("knn") < error("user_mean") < error("mean")
