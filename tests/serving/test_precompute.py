"""Slates made beforehand by a real server, for a real store, and answered from there."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.events.schema import Event
from shortlist.profiles import PATIENCE_MS, PRECOMPUTED, PROFILES_URL
from shortlist.profiles.bundle import StoredProfiles
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.layout import pack
from shortlist.profiles.precomputed import SEGMENT, SLATE
from shortlist.profiles.state import apply
from shortlist.profiles.store import PROFILE, ProfileStore
from shortlist.serving.client import Client, Recommendation
from shortlist.serving.precompute import Cycle, Precompute, Slates, most_active, served_bundle
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.types import FULL

MOST = 20


@pytest.fixture(scope="module")
def live(repository: Path, server: EmbeddedStore) -> Iterator[Supervisor]:
    environment = {PROFILES_URL: server.url, PATIENCE_MS: "20000", PRECOMPUTED: "1"}
    with Supervisor(repository, free_address(), instances=1, environment=environment) as supervisor:
        yield supervisor


@pytest.fixture
def asking(live: Supervisor) -> Iterator[Client]:
    with Client(live.address.grpc) as client:
        yield client


@pytest.fixture
def job(repository: Path, asking: Client, store: ProfileStore) -> Precompute:
    return Precompute(lambda: served_bundle(repository), asking, store, top_users=MOST, ttl_s=100)


def did(store: ProfileStore, user: bytes, times: int = 1) -> None:
    """Put a live profile of so many events into the store."""
    profile = None
    for i in range(times):
        fields = {"event_id": f"e{i}", "user_id": user.decode(), "item_id": f"item-{i}", "type": "like"}
        profile = apply(profile, Event(**fields, timestamp_ms=1_700_000_000_000 + i), lambda _: ())
    assert profile is not None
    store.command("SET", PROFILE + user, pack(profile))


def hits(live: Supervisor) -> float:
    """Hits on the metrics endpoint."""
    with urllib.request.urlopen(live.address.metrics, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = (
        line for line in lines if line.startswith("shortlist_precomputed_requests_total") and 'outcome="hit"' in line
    )
    return sum(float(line.rpartition(" ")[2]) for line in found)


def all_made(job: Precompute, every_s: float = 0) -> Cycle:
    """Cycles until nobody was left, as a busy machine may have it; what they made together."""
    made = 0
    for _ in range(50):
        cycle = job.cycle(every_s)
        made += cycle.made
        if not cycle.left:
            return replace(cycle, made=made)
        time.sleep(0.2)
    raise AssertionError(f"still {cycle.left} left")


def fully(asking: Client, user: str) -> Recommendation:
    """An answer for which the store was read in time."""
    until = time.monotonic() + 60
    while (answer := asking.recommend(user)).status != FULL:
        assert time.monotonic() < until
    return answer


def test_the_most_active_people_get_a_slate_which_then_answers(
    job: Precompute, asking: Client, store: ProfileStore, live: Supervisor
) -> None:
    computed, before = fully(asking, "user-0"), hits(live)
    cycle = all_made(job)
    assert (cycle.people, cycle.made) == (MOST, MOST)
    until = time.monotonic() + 60
    while hits(live) == before and time.monotonic() < until:
        assert fully(asking, "user-0").items == computed.items
        time.sleep(0.2)
    assert hits(live) > before


def test_a_second_cycle_makes_only_what_changed(job: Precompute, store: ProfileStore) -> None:
    all_made(job)
    did(store, b"user-0")
    assert all_made(job).made == 1


def test_a_slate_that_would_end_before_the_next_cycle_is_made_again(job: Precompute) -> None:
    all_made(job)
    assert job.cycle(every_s=200).fresh == 0


def test_after_an_event_nobody_gets_the_slate_of_before(job: Precompute, asking: Client, store: ProfileStore) -> None:
    before = fully(asking, "user-0")
    all_made(job)
    did(store, b"user-0", 5)
    assert fully(asking, "user-0").items != before.items


def test_slates_and_segments_end_by_themselves(job: Precompute, store: ProfileStore) -> None:
    all_made(job)
    for key in (SLATE + b"user-0", SEGMENT + b"0"):
        assert 0 < store.command("TTL", key) <= 100


def test_who_is_active_now_counts_by_what_they_do_now(bundle: Path, store: ProfileStore) -> None:
    did(store, b"somebody new", 100)
    found = most_active(StoredProfiles.load(Bundle.open(bundle)), store, Slates(store, 1), 5)
    assert found[0] == b"somebody new"


def test_without_live_profiles_the_longest_histories_come_first(bundle: Path, store: ProfileStore) -> None:
    stored = StoredProfiles.load(Bundle.open(bundle))
    found = most_active(stored, store, Slates(store, 1), 5)
    lengths = np.diff(stored.offsets)
    assert [lengths[row] for row in stored.find(found)] == sorted(lengths, reverse=True)[:5]


def test_versions_of_profiles_are_read_without_the_profiles(store: ProfileStore) -> None:
    did(store, b"user-0", 3)
    assert Slates(store, 1).versions([b"user-0", b"nobody"]) == [(3, 1_700_000_000_002), (0, 0)]
