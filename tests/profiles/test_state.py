"""What one event does to a profile."""

import random
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shortlist.events.schema import Event
from shortlist.profiles.layout import pack, unpack
from shortlist.profiles.state import (
    DISLIKED,
    HALF_LIFE_S,
    HISTORY,
    LATENESS_S,
    MARK,
    RETENTION_S,
    SESSION_GAP_S,
    TYPES,
    apply,
    step,
)
from tests.profiles.making import DAY, HOUR, MINUTE, NOON, event, facts, profile_of

events_of_one_user = st.lists(
    st.builds(
        lambda number, item, type_, at, value, session: event(
            f"i{item}",
            type_,
            NOON + at,
            event_id=f"x{number}",
            value=value if type_ in ("dwell", "view", "rating") else None,
            session_id=session,
        ),
        st.integers(0, 60),
        st.integers(0, 60),
        st.sampled_from(TYPES),
        st.one_of(st.integers(0, HOUR), st.integers(-2 * DAY, 120 * DAY)),
        st.one_of(st.none(), st.floats(1, 5).map(lambda x: x / 5)),
        st.sampled_from([None, "a", "b"]),
    ),
    min_size=1,
    max_size=60,
)


@given(events_of_one_user, st.data())
def test_any_split_into_batches_gives_the_same_bits(events: list[Event], data: st.DataObject) -> None:
    stored = None
    for one in events:
        if stored is not None and data.draw(st.booleans()):
            stored = unpack(pack(stored))
        stored = apply(stored, one, facts)
    assert pack(stored) == pack(profile_of(events))


@given(events_of_one_user)
def test_history_is_in_time_order_and_version_counts_what_was_applied(events: list[Event]) -> None:
    profile = profile_of(events)
    assert profile.moments == sorted(profile.moments)
    assert len(profile) == profile.version == sum(profile.counters)


@given(events_of_one_user)
def test_an_event_sent_again_at_once_changes_nothing(events: list[Event]) -> None:
    profile = profile_of(events)
    again = step(profile, events[-1], facts)
    assert again[0] == profile
    assert again[1] in ("duplicate", "late")


@given(st.integers(2, 260), st.integers(0, 2**32))
def test_no_event_within_the_horizon_counts_twice_however_it_is_repeated(count: int, seed: int) -> None:
    rng = random.Random(seed)
    events = [event(f"i{i}", at=NOON + i * MINUTE) for i in range(count)]
    disturbed = [one for i in range(count) for one in (events[i], *rng.sample(events[: i + 1], min(2, i + 1)))]
    assert pack(profile_of(disturbed)) == pack(profile_of(events))


def test_history_keeps_the_newest() -> None:
    profile = profile_of(event(f"i{i}", at=NOON + i) for i in range(HISTORY + 5))
    assert [item for item, _, _, _ in profile.history] == [f"i{i}".encode() for i in range(5, HISTORY + 5)]


def test_an_event_that_arrives_out_of_order_takes_its_place() -> None:
    profile = profile_of([event("a", at=NOON), event("c", at=NOON + 2), event("b", at=NOON + 1)])
    assert profile.seen_since(0) == [b"a", b"b", b"c"]


def test_what_an_event_says_comes_back() -> None:
    profile = profile_of([event("a", "dwell", NOON + 7, value=12.5)])
    assert profile.history == ((b"a", "dwell", 12.5, NOON + 7),)


def test_an_event_just_within_lateness_is_applied() -> None:
    profile = profile_of([event(at=NOON)])
    assert step(profile, event(at=NOON - LATENESS_S * 1000), facts)[1] is None


def test_a_late_event_is_refused_and_changes_nothing() -> None:
    profile = profile_of([event(at=NOON)])
    assert step(profile, event(at=NOON - LATENESS_S * 1000 - 1000), facts) == (profile, "late")


def test_an_event_is_remembered_until_it_would_be_late() -> None:
    first = event(at=NOON)
    profile = profile_of([first, event(at=NOON + LATENESS_S * 1000)])
    assert step(profile, first, facts)[1] == "duplicate"


def test_what_is_forgotten_first_is_the_oldest_not_the_first_to_come() -> None:
    newer, older = event(at=NOON + 10 * HOUR), event(at=NOON)
    profile = profile_of([newer, older, event(at=NOON + DAY + 1000)])
    assert (step(profile, newer, facts)[1], step(profile, older, facts)[1]) == ("duplicate", "late")


def test_the_end_of_one_mark_and_the_start_of_another_are_no_mark() -> None:
    again = event(at=NOON + 5)
    mark = blake2b(again.event_id.encode(), digest_size=MARK).digest()
    between, there = bytes(3) + mark + bytes(3), bytes(3) + mark + bytes(3) + mark
    profile = profile_of(event(at=NOON + i) for i in range(3))
    assert step(replace(profile, seen=between), again, facts)[1] is None
    assert step(replace(profile, seen=there), again, facts)[1] == "duplicate"


def test_an_event_older_than_all_of_a_full_history_is_late() -> None:
    profile = profile_of(event(at=NOON + i) for i in range(1, HISTORY + 1))
    assert step(profile, event(at=NOON), facts)[1] == "late"


def test_events_of_the_same_moment_are_never_late() -> None:
    profile = profile_of(event(f"i{i}", at=NOON) for i in range(HISTORY + 20))
    assert profile.version == HISTORY + 20


def test_a_long_silence_makes_the_user_new_again() -> None:
    after = event("b", at=NOON + RETENTION_S * 1000 + 1)
    assert apply(profile_of([event("a")]), after, facts) == apply(None, after, facts)


def test_only_positive_events_are_seen_since() -> None:
    kinds = [
        ("a", "click", None),
        ("b", "dislike", None),
        ("c", "dwell", 2.0),
        ("d", "dwell", 40.0),
        ("e", "skip", None),
    ]
    profile = profile_of(event(i, t, NOON + n, value=v) for n, (i, t, v) in enumerate(kinds))
    assert profile.seen_since(0) == [b"a", b"d"]


def test_seen_since_leaves_out_what_was_known_until_then() -> None:
    profile = profile_of(event(f"i{i}", at=NOON + i) for i in range(5))
    assert profile.seen_since(NOON + 2) == [b"i3", b"i4"]


def test_a_run_of_events_on_one_item_is_seen_once() -> None:
    visits = ["a", "a", "b", "b", "a"]
    assert profile_of(event(i, at=NOON + n) for n, i in enumerate(visits)).seen_since(0) == [b"a", b"b", b"a"]


def test_a_like_takes_a_dislike_back_and_a_click_does_not() -> None:
    events = [event("a", "dislike"), event("b", "dislike"), event("a", "like"), event("b", "click")]
    assert profile_of(events).disliked == [b"b"]


def test_dislikes_are_remembered_longer_than_history_and_bounded() -> None:
    dislikes = [event(f"d{i}", "dislike", NOON + i) for i in range(DISLIKED + 1)]
    clicks = [event("a", at=NOON + 1000 + i) for i in range(HISTORY)]
    assert profile_of(dislikes + clicks).disliked == [f"d{i}".encode() for i in range(1, DISLIKED + 1)]


def test_an_affinity_halves_in_its_half_life() -> None:
    profile = profile_of([event("i0", "like")])
    then = NOON // 1000 + HALF_LIFE_S
    assert profile.affinities.at(then, HALF_LIFE_S) == {"genre:0": 1.5, "maker:0": 1.5}


def test_a_session_ends_when_events_name_another() -> None:
    profile = profile_of(event(at=NOON + i, session_id=name) for i, name in enumerate("aab"))
    assert (profile.session.id, profile.session.started_ms, profile.session.events) == (b"b", NOON + 2, 1)


def test_a_session_without_a_name_ends_after_a_silence() -> None:
    gap = SESSION_GAP_S * 1000
    profile = profile_of([event(at=NOON), event(at=NOON + gap), event(at=NOON + 2 * gap + 1)])
    assert (profile.session.started_ms, profile.session.events) == (NOON + 2 * gap + 1, 1)


def test_a_straggler_of_the_last_session_leaves_this_one_alone() -> None:
    events = [event(session_id="a"), event(at=NOON + HOUR, session_id="b")]
    straggler = event(at=NOON + 1, session_id="a")
    assert profile_of([*events, straggler]).session == profile_of(events).session


def test_session_affinities_start_anew_with_the_session_and_long_term_ones_go_on() -> None:
    profile = profile_of([event("i0", session_id="a"), event("i1", at=NOON + HOUR, session_id="b")])
    assert list(profile.session.affinities.at(NOON // 1000, 60)) == ["genre:1", "maker:1"]
    assert set(profile.affinities.at(NOON // 1000, 60)) == {"genre:0", "genre:1", "maker:0", "maker:1"}


def test_the_last_context_stays_until_there_is_another() -> None:
    profile = profile_of([event(context={"hour": 3, "device": "phone"}), event(at=NOON + 1)])
    assert profile.context == b'{"device":"phone","hour":3}'


def test_a_context_too_large_to_keep_is_passed_over() -> None:
    large = {f"name{i}": "x" * 250 for i in range(16)}
    profile = profile_of([event(context={"hour": 3}), event(at=NOON + 1, context=large)])
    assert profile.context == b'{"hour":3}'


def test_counters_count_by_type() -> None:
    profile = profile_of([event(type_="click"), event(type_="click"), event(type_="share")])
    assert (profile.counts()["click"], profile.counts()["share"], profile.version) == (2, 1, 3)


@pytest.mark.parametrize("value", [86_400.0, 65_505.0])
def test_a_value_beyond_what_is_stored_is_kept_as_the_largest(value: float) -> None:
    assert profile_of([event(type_="dwell", value=value)]).history[0][2] == 65_504.0
