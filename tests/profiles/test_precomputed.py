"""Slates made beforehand answer as long as they are what would be computed, and no longer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shortlist.cascade import Cascade
from shortlist.errors import DeadlineError
from shortlist.profiles import ABSENT, BUNDLE, GONE, HIT, OPTIONS, PROFILE
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.layout import pack as pack_profile
from shortlist.profiles.live import Answer, LiveProfiles
from shortlist.profiles.precomputed import (
    SLATE,
    Made,
    Precomputed,
    Segment,
    pack,
    read_made,
    read_segment,
)
from shortlist.profiles.store import ProfileStore
from shortlist.types import Request, Slate
from tests.factories import make_bundle
from tests.profiles.making import event, profile_of

USER = b"user-0"


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    return Cascade.load(make_bundle(tmp_path_factory.mktemp("made") / "bundle"))


class Serving:
    """A cascade behind live profiles that takes slates from a store, and tells which requests it computed."""

    def __init__(self, cascade: Cascade, url: str) -> None:
        self.cascade = cascade
        self.offered = True
        self.computed: list[Request] = []
        self.made = Precomputed(cascade.version, lambda _: self.offered)
        self.live = LiveProfiles(
            self._recommend, url, 0, lambda *_: None, self.made, 10.0
        )  # a busy machine is no matter

    def ask(self, **options: Any) -> Answer:
        (answer,) = self.live.recommend([Request(USER, **options)])
        return answer

    def _recommend(self, requests: Sequence[Request]) -> Sequence[Answer]:
        self.computed.extend(requests)
        return self.cascade.recommend(requests)


@pytest.fixture
def serving(cascade: Cascade, server: EmbeddedStore, store: ProfileStore) -> Iterator[Serving]:
    made = Serving(cascade, server.url)
    yield made
    made.live.close()


def keep(
    store: ProfileStore, slate: Answer, bundle: str, version: int = 0, updated_ms: int = 0, age_s: float = 0
) -> None:
    """Put a slate into the store."""
    assert isinstance(slate, Slate)
    made_ms = round(1000 * (time.time() - age_s))
    made = Made(bundle, version, updated_ms, made_ms, [*slate.item_ids], slate.scores.tobytes())
    store.command("SET", SLATE + USER, pack(made))


def test_a_kept_slate_answers_as_the_cascade_would(serving: Serving, store: ProfileStore) -> None:
    computed = serving.ask()
    keep(store, computed, serving.cascade.version)
    kept = serving.ask()
    assert isinstance(kept, Slate)
    assert isinstance(computed, Slate)
    assert (kept.item_ids, kept.scores.tolist(), kept.status) == (
        computed.item_ids, computed.scores.tolist(), computed.status,
    )  # fmt: skip
    assert len(serving.computed) == 1


def test_the_length_that_it_has_may_be_asked_for(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    serving.ask(k=10)
    assert serving.made.outcomes[HIT] == 1


def test_hits_and_their_age_are_counted(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version, age_s=100)
    serving.ask()
    serving.ask()
    assert serving.made.outcomes[HIT] == 2
    assert serving.made.age_seconds == pytest.approx(200, abs=20)


def test_a_new_event_ends_it(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    store.command("SET", b"sl:p:" + USER, pack_profile(profile_of([event("item-7", "like")])))
    serving.ask()
    assert serving.made.outcomes[PROFILE] == 1
    assert len(serving.computed) == 2


def test_one_made_for_the_live_profile_answers(serving: Serving, store: ProfileStore) -> None:
    profile = profile_of([event("item-7", "like")])
    store.command("SET", b"sl:p:" + USER, pack_profile(profile))
    keep(store, serving.ask(), serving.cascade.version, profile.version, profile.updated_ms)
    serving.ask()
    assert serving.made.outcomes[HIT] == 1


def test_a_lost_profile_that_grew_again_is_another(serving: Serving, store: ProfileStore) -> None:
    profile = profile_of([event("item-7", "like")])
    store.command("SET", b"sl:p:" + USER, pack_profile(profile))
    keep(store, serving.ask(), serving.cascade.version, profile.version, profile.updated_ms - 1)
    serving.ask()
    assert serving.made.outcomes[PROFILE] == 1


@pytest.mark.parametrize(
    "options",
    [{"k": 5}, {"diversity": 0.1}, {"exclude": (b"item-1",)}, {"context": {"hour": 3}}],
    ids=lambda options: next(iter(options)),
)
def test_who_asks_for_something_else_gets_it(serving: Serving, store: ProfileStore, options: dict[str, Any]) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    serving.ask(**options)
    assert serving.made.outcomes[OPTIONS] == 1
    assert len(serving.computed) == 2


def test_who_asks_for_a_trace_gets_it_and_misses_no_slate(serving: Serving, store: ProfileStore) -> None:
    serving.ask(trace=True)
    keep(store, serving.ask(), serving.cascade.version)
    serving.ask(trace=True)
    assert serving.made.outcomes[ABSENT] == serving.made.outcomes.total() == 1


def test_another_bundle_ends_it(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), "another")
    serving.ask()
    assert serving.made.outcomes[BUNDLE] == 1


def test_a_removed_item_ends_it(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    serving.offered = False
    serving.ask()
    assert serving.made.outcomes[GONE] == 1


def test_a_passed_deadline_is_refused_all_the_same(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    assert isinstance(serving.ask(deadline_unix_us=1), DeadlineError)


@pytest.mark.parametrize("blob", [b"", b"\x00", b"\x97" + bytes(6), pack(Segment("b", 1, 0, b"", []))], ids=repr)
def test_what_is_no_slate_is_none(serving: Serving, store: ProfileStore, blob: bytes) -> None:
    store.command("SET", SLATE + USER, blob)
    serving.ask()
    assert serving.made.outcomes[ABSENT] == 1


def test_a_slate_is_no_segment() -> None:
    assert read_segment(pack(Made("b", 0, 0, 0, [], b""))) is None


def test_a_slate_without_all_its_scores_is_none() -> None:
    assert read_made(pack(Made("b", 0, 0, 0, [b"a", b"b"], bytes(4)))) is None


def test_profile_and_slate_take_one_round_trip(serving: Serving, store: ProfileStore) -> None:
    store.command("CONFIG", "RESETSTAT")
    serving.ask()
    assert b"cmdstat_mget:calls=1," in store.command("INFO", "commandstats")


def test_in_a_batch_only_what_is_missing_is_computed(serving: Serving, store: ProfileStore) -> None:
    keep(store, serving.ask(), serving.cascade.version)
    serving.computed.clear()
    first, _, last = serving.live.recommend([Request(b"user-1"), Request(USER), Request(b"user-2")])
    assert [request.user_id for request in serving.computed] == [b"user-1", b"user-2"]
    assert [first, last] != [None, None]
