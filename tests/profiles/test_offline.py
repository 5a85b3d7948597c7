"""Profiles of a log alone, and the check of a store against them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.events.consumer import Consumer
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.profiles.layout import pack
from shortlist.profiles.offline import Comparison, Fold, compare
from shortlist.profiles.store import ProfileStore
from tests.profiles.making import event, facts, pairs, profile_of, stream


@pytest.fixture
def source(tmp_path: Path) -> Iterator[LocalSource]:
    """A log of 1,000 events of 30 people in 3 partitions."""
    log = LocalLog(tmp_path / "log", partitions=3)
    log.append(pairs(stream(1000, users=30)))
    log.close()
    opened = LocalSource(tmp_path / "log")
    yield opened
    opened.close()


def test_the_fold_of_a_log_is_each_users_own_fold(source: LocalSource) -> None:
    fold = Fold(source, facts)
    fold.up_to(source.ends())
    events = [one for one in stream(1000, users=30) if one.user_id == "user7"]
    assert pack(fold.profiles[b"user7"]) == pack(profile_of(events))


def test_a_fold_goes_on_where_it_stopped(source: LocalSource) -> None:
    whole, parts = Fold(source, facts), Fold(source, facts)
    whole.up_to(source.ends())
    parts.up_to({p: end // 3 for p, end in source.ends().items()})
    parts.up_to(source.ends())
    assert parts.profiles == whole.profiles


def test_a_store_as_the_log_says_is_equal(source: LocalSource, store: ProfileStore) -> None:
    Consumer(source, store, facts).run(until=source.ends())
    assert compare(source, store, facts) == Comparison(30, [], [])


def test_a_store_is_compared_as_far_as_it_went(source: LocalSource, store: ProfileStore) -> None:
    Consumer(source, store, facts, batch=50).run(until={p: end // 2 for p, end in source.ends().items()})
    found = compare(source, store, facts)
    assert (found.different, found.unknown) == ([], [])


def test_one_wrong_byte_and_a_stranger_are_found(source: LocalSource, store: ProfileStore) -> None:
    Consumer(source, store, facts).run(until=source.ends())
    wrong = pack(profile_of([event()]))
    ends = source.ends()
    store.commit(source.name, 0, ends[0], ends[0], {b"user3": wrong, b"stranger": wrong})
    assert compare(source, store, facts) == Comparison(29, [b"user3"], [b"stranger"])
