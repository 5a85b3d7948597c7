"""The blob of a profile."""

import msgspec
import pytest
from hypothesis import given

from shortlist.errors import DataError
from shortlist.events.schema import Event
from shortlist.profiles.layout import FORMAT, pack, recent, unpack
from shortlist.profiles.state import EMPTY, HISTORY
from tests.profiles.making import NOON, event, profile_of
from tests.profiles.test_state import events_of_one_user


@given(events_of_one_user)
def test_what_was_packed_comes_back(events: list[Event]) -> None:
    profile = profile_of(events)
    assert unpack(pack(profile)) == profile


@given(events_of_one_user)
def test_the_short_way_reads_what_the_profile_says(events: list[Event]) -> None:
    profile = profile_of(events)
    for until in (0, profile.updated_ms - 1000, profile.updated_ms):
        expected = (profile.version, profile.updated_ms, profile.seen_since(until), profile.disliked)
        assert recent(pack(profile), until)[:4] == expected


def test_the_short_way_reads_the_vector_too() -> None:
    profile = msgspec.structs.replace(profile_of([event()]), vector=bytes(range(8)), vector_bundle=b"version")
    found = recent(pack(profile))
    assert (found.vector, found.vector_bundle) == (profile.vector, profile.vector_bundle)


def test_an_empty_profile_is_a_header() -> None:
    assert unpack(pack(EMPTY)) == EMPTY


def test_the_longest_ids_fit() -> None:
    longest = ["𝔘" * 61 + f"{i:03d}" for i in range(HISTORY)]
    profile = profile_of(event(item, "dislike", NOON + i) for i, item in enumerate(longest))
    assert unpack(pack(profile)) == profile


def test_the_format_is_what_the_documentation_says() -> None:
    blob = pack(profile_of([event("i1", "like", 1_700_000_000_123, event_id="e", session_id="s")]))
    assert blob == b"".join(bytes.fromhex(part) for part, _ in PUBLISHED)


@pytest.mark.parametrize("damage", [b"", b"\x00", bytes([FORMAT])], ids=["empty", "other", "short"])
def test_what_is_no_profile_is_refused(damage: bytes) -> None:
    with pytest.raises(DataError, match="replay the log"):
        recent(damage)


def test_another_format_is_refused() -> None:
    blob = bytes([FORMAT + 1]) + pack(EMPTY)[1:]
    with pytest.raises(DataError, match=f"format {FORMAT + 1}"):
        unpack(blob)


def test_a_blob_cut_short_is_refused() -> None:
    with pytest.raises(DataError, match="its header says"):
        unpack(pack(profile_of([event()]))[:-1])


@pytest.mark.parametrize("lost", [1, 40])
def test_the_short_way_refuses_a_blob_cut_short(lost: int) -> None:
    with pytest.raises(DataError, match="its header says"):
        recent(pack(profile_of([event(f"i{i}", "like") for i in range(9)]))[:-lost])


PUBLISHED = [
    ("01 01 01 02 02 000000", "format, N, M, C, session's C, nothing"),
    ("0100000000000000 7b68e5cf8b010000", "version, updated_ms"),
    ("00000000 00000000 00000000 01000000 00000000 00000000 00000000 00000000", "counters"),
    ("7b68e5cf8b010000 01000000", "session: started_ms, events"),
    ("0300 0000 1000 0100 1000 0000 0000 0000", "lengths of the columns of text"),
    ("00f15365", "seconds"),
    ("7b00", "millis"),
    ("007e", "values: NaN"),
    ("83", "kinds: like, and it is positive"),
    ("7e929d5a7cb7", "seen"),
    ("00004040 00f15365 00004040 00f15365", "affinities: 3.0 each, and when"),
    ("00004040 00f15365 00004040 00f15365", "the session's"),
    (b"i1\xff".hex(), "items"),
    (b"genre:1\xffmaker:1\xff".hex(), "categories"),
    (b"s".hex(), "session"),
    (b"genre:1\xffmaker:1\xff".hex(), "the session's categories"),
]
