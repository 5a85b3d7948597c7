"""Requests that see what people did a moment ago, from a real store; and what they get when it does not answer."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from shortlist.cascade import Cascade
from shortlist.errors import RequestError, ShortlistError
from shortlist.events.schema import Event
from shortlist.profiles import FAILED, FOUND, NONE, UNASKED
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.layout import pack
from shortlist.profiles.live import FRESH, READ, LiveProfiles
from shortlist.profiles.state import Profile, apply
from shortlist.profiles.store import ProfileStore
from shortlist.slates import SlateCache
from shortlist.types import FULL, STALE_PROFILE, Live, Request, Slate
from tests.factories import make_bundle
from tests.profiles.making import MINUTE, NOON, event, facts, profile_of

Follow = Callable[..., LiveProfiles]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    cascade = Cascade.load(make_bundle(tmp_path_factory.mktemp("live") / "bundle"))
    cascade.warm_up()
    return cascade


@pytest.fixture
def follow(cascade: Cascade, server: EmbeddedStore) -> Iterator[Follow]:
    """Makes LiveProfiles before the cascade."""
    made = []

    def of(url=server.url, recommend=cascade.recommend, known_until_ms=0, observer=lambda *_: None, patience=20.0):  # type: ignore[no-untyped-def]
        made.append(LiveProfiles(recommend, url, known_until_ms, observer, patience=patience))  # on a busy machine, too
        return made[-1]

    yield of
    for live in made:
        live.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store of one's own, to harm."""
    with EmbeddedStore(tmp_path / "store") as running:
        yield running
        running.process.send_signal(signal.SIGCONT)


def did(store: ProfileStore, *events: Event, user: bytes = b"user-0") -> Profile:
    """Put a profile into the store."""
    profile = profile_of(events)
    put(store, pack(profile), user)
    return profile


def put(store: ProfileStore, blob: bytes, user: bytes = b"user-0") -> None:
    store.command("SET", b"sl:p:" + user, blob)


def ask(live: LiveProfiles, user: bytes = b"user-0", **options: object) -> Slate:
    (answer,) = live.recommend([Request(user, **options)])  # type: ignore[arg-type]
    assert isinstance(answer, Slate), answer
    return answer


def eventually(live: LiveProfiles, status: str) -> bool:
    """Whether an answer of `status` comes within a minute."""
    until = time.monotonic() + 60
    while ask(live).status != status:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_what_a_person_does_changes_the_next_slate(follow: Follow, store: ProfileStore) -> None:
    live = follow()
    before = ask(live)
    did(store, *(event(f"item-{i}", "like") for i in (7, 8, 9)))
    assert ask(live).item_ids != before.item_ids


def test_live_events_follow_the_stored_history(cascade: Cascade, follow: Follow, store: ProfileStore) -> None:
    did(store, event("item-7", at=NOON), event("item-8", at=NOON + 1))
    stored = cascade.users.profiles
    rows = [*stored.history(int(stored.find([b"user-0"])[0])), *cascade.catalog.ids.rows([b"item-7", b"item-8"])]
    whole = Request(history=tuple(cascade.catalog.ids.id(int(row)) for row in rows), k=50)
    (same,) = cascade.recommend([Request(b"user-0", history=whole.history, k=50)])
    assert isinstance(same, Slate)
    assert ask(follow(), k=50).item_ids == same.item_ids


def test_a_stranger_with_live_events_is_no_cold_start(cascade: Cascade, follow: Follow, store: ProfileStore) -> None:
    did(store, event("item-7", "like"), user=b"stranger")
    (given,) = cascade.recommend([Request(history=(b"item-7",))])
    assert isinstance(given, Slate)
    assert ask(follow(), b"stranger").item_ids == given.item_ids


def test_an_item_just_seen_is_not_shown_again(follow: Follow, store: ProfileStore) -> None:
    live = follow()
    first = ask(live, k=1).item_ids[0]
    did(store, event(first.decode()))
    assert first not in ask(live, k=50).item_ids


def test_a_disliked_item_is_never_shown(cascade: Cascade, follow: Follow, store: ProfileStore) -> None:
    live = follow()
    first = ask(live, k=1).item_ids[0]
    did(store, event(first.decode(), "dislike"))
    cascade.users.mask_seen = False
    try:
        assert first not in ask(live, k=50).item_ids
    finally:
        cascade.users.mask_seen = True


def test_what_the_bundle_knows_already_is_no_news(follow: Follow, store: ProfileStore) -> None:
    without = ask(follow()).item_ids
    did(store, *(event(f"item-{i}", "like", at=NOON + i) for i in (7, 8, 9)))
    assert ask(follow(known_until_ms=NOON + 9)).item_ids == without
    assert ask(follow(known_until_ms=NOON + 8)).item_ids != without


def test_items_unknown_to_the_bundle_are_passed_over(follow: Follow, store: ProfileStore) -> None:
    without = ask(follow()).item_ids
    did(store, event("sold out", "like"))
    assert ask(follow()).item_ids == without


@pytest.mark.parametrize("request_", [Request(), Request(b"user-0", history=(b"item-1",))], ids=["anonymous", "own"])
def test_who_needs_no_profile_is_not_asked_about(follow: Follow, request_: Request) -> None:
    live = follow()
    live.recommend([request_])
    assert sum(live.outcomes.values()) == 0


def test_each_of_a_batch_gets_their_own(follow: Follow, store: ProfileStore) -> None:
    people = [b"user-%d" % i for i in range(30)]
    for i, user in enumerate(people):
        did(store, event(f"item-{i}", "like"), user=user)
    live = follow()
    together = live.recommend([Request(user) for user in people])
    assert [a.item_ids for a in together if isinstance(a, Slate)] == [ask(live, user).item_ids for user in people]
    assert live.outcomes[FOUND] == 2 * len(people)


def test_a_new_event_is_a_new_question_to_the_cache(cascade: Cascade, follow: Follow, store: ProfileStore) -> None:
    cache = SlateCache(cascade.recommend, 100)
    live = follow(recommend=cache.recommend)
    first = did(store, event("item-7"))
    assert ask(live) is ask(live)
    put(store, pack(apply(first, event("item-8", at=NOON + MINUTE), facts)))
    ask(live)
    assert cache.hits == 1


def test_a_trace_tells_version_and_age(follow: Follow, store: ProfileStore) -> None:
    now = time.time_ns() // 1_000_000
    did(store, event("item-7", at=now - MINUTE), event("item-8", at=now - 1000))
    trace = ask(follow(), trace=True).trace
    assert trace is not None
    assert (trace["profile"]["read"], trace["profile"]["version"]) == (True, 2)
    assert 1000 <= trace["profile"]["age_ms"] < MINUTE


def test_a_person_without_a_profile_has_version_zero(follow: Follow, store: ProfileStore) -> None:
    live = follow()
    trace = ask(live, b"nobody", trace=True).trace
    assert trace is not None
    assert trace["profile"] == {"read": True, "version": 0, "age_ms": None}
    assert live.outcomes[NONE] == 1


def test_freshness_is_that_of_the_first_answer(follow: Follow, store: ProfileStore) -> None:
    seen: list[str] = []
    live = follow(observer=lambda what, _: seen.append(what))
    ask(live)
    did(store, event("item-7"))
    ask(live)
    ask(live)
    assert (seen.count(FRESH), seen.count(READ)) == (1, 3)


def test_a_blob_of_another_format_costs_only_its_person(follow: Follow, store: ProfileStore) -> None:
    put(store, b"\xfe" * 200)
    did(store, event("item-7"), user=b"user-1")
    answers = follow().recommend([Request(b"user-0"), Request(b"user-1")])
    assert [a.status for a in answers if isinstance(a, Slate)] == [STALE_PROFILE, FULL]


def test_a_store_that_hangs_is_waited_for_once(cascade: Cascade, follow: Follow, mortal: EmbeddedStore) -> None:
    live = follow(mortal.url, patience=0.5)
    (without,) = cascade.recommend([Request(b"user-0")])
    assert isinstance(without, Slate)
    assert eventually(live, FULL)
    live.outcomes.clear()
    mortal.process.send_signal(signal.SIGSTOP)
    answers = [ask(live) for _ in range(5)]
    assert {a.status for a in answers} == {STALE_PROFILE}
    assert {a.item_ids for a in answers} == {without.item_ids}
    assert (live.outcomes[FAILED], live.outcomes[UNASKED]) == (1, 4)


def test_a_store_that_goes_on_is_asked_again(follow: Follow, mortal: EmbeddedStore) -> None:
    live = follow(mortal.url, patience=0.5)
    mortal.process.send_signal(signal.SIGSTOP)
    assert eventually(live, STALE_PROFILE)
    mortal.process.send_signal(signal.SIGCONT)
    assert eventually(live, FULL)


def test_a_killed_store_is_found_again(follow: Follow, mortal: EmbeddedStore) -> None:
    live = follow(mortal.url)
    mortal.kill()
    assert ask(live).status == STALE_PROFILE
    with EmbeddedStore(mortal.folder):
        assert eventually(live, FULL)


def test_a_store_that_is_down_at_first_is_no_error(follow: Follow, tmp_path: Path) -> None:
    live = follow(f"unix://{tmp_path}/store/socket")
    assert ask(live).status == STALE_PROFILE
    with EmbeddedStore(tmp_path / "store"):
        assert eventually(live, FULL)


def test_a_request_keeps_its_options(follow: Follow, store: ProfileStore) -> None:
    asked: list[Request] = []

    def recommend(requests: Sequence[Request]) -> list[ShortlistError]:
        asked.extend(requests)
        return [RequestError("")] * len(requests)

    options = {"exclude": (b"i",), "k": 3, "diversity": 0.5, "context": {"hour": 1}, "deadline_unix_us": 7}
    request = Request(b"user-0", **options, trace=True, eligible={"x": 1}, traceparent="00")  # type: ignore[arg-type]
    follow(recommend=recommend).recommend([request])
    assert replace(asked[0], live=None) == request
    assert asked[0].live == Live(0, 0)


def test_a_refused_request_stays_refused(follow: Follow, mortal: EmbeddedStore) -> None:
    live = follow(mortal.url)
    mortal.kill()
    (answer,) = live.recommend([Request(b"user-0", context={"hour": "noon"})])
    assert not isinstance(answer, Slate)


def test_a_damaged_blob_costs_only_its_person(follow: Follow, store: ProfileStore) -> None:
    put(store, pack(profile_of([event("item-7", "like")] * 2))[:-3])
    live = follow()
    assert [ask(live).status, ask(live, b"user-1").status] == [STALE_PROFILE, FULL]


@pytest.mark.parametrize("vector", [b"odd", bytes(4)])
def test_a_vector_of_another_width_is_passed_over(
    cascade: Cascade, follow: Follow, store: ProfileStore, vector: bytes
) -> None:
    moved = {"vector": vector, "vector_bundle": cascade.version.encode()}
    put(store, pack(msgspec.structs.replace(profile_of([event("item-7", "like")]), **moved)))
    assert ask(follow()).status == FULL


def test_a_connection_that_comes_after_the_end_is_let_go(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, let_go = follow(f"unix://{tmp_path}/socket"), threading.Event()

    class Late:
        close = staticmethod(let_go.set)

    def connected() -> Late:
        live.close()
        return Late()

    monkeypatch.setattr(live, "_connected", connected)
    assert let_go.wait(60)
