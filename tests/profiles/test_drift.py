"""User vectors that events move: from the log into profiles, and from there into slates."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.events.consumer import Consumer
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.schema import Event
from shortlist.profiles.drift import Drift
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.facts import no_facts
from shortlist.profiles.layout import unpack
from shortlist.profiles.live import LiveProfiles
from shortlist.profiles.offline import Comparison, compare
from shortlist.profiles.online import moved
from shortlist.profiles.state import Profile, apply
from shortlist.profiles.store import ProfileStore
from shortlist.types import Live, Request, Slate
from tests.factories import make_bundle
from tests.profiles.making import NOON, event, pairs


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("drift") / "bundle")


@pytest.fixture(scope="module")
def cascade(bundle: Path) -> Cascade:
    return Cascade.load(bundle)


@pytest.fixture(scope="module")
def drift(bundle: Path) -> Drift:
    return Drift(bundle)


def after(drift: Drift, *events: Event) -> Profile:
    """The profile after events, its vector moved by each."""
    profile = None
    for one in events:
        profile = drift(profile, apply(profile, one, no_facts), one)
    assert profile is not None
    return profile


def likes(count: int, user: str = "user-0") -> list[Event]:
    return [event(f"item-{7 * i}", "like", NOON + i, user_id=user) for i in range(count)]


def test_an_event_that_says_yes_moves_the_vector(drift: Drift) -> None:
    profile = after(drift, *likes(1))
    assert np.frombuffer(profile.vector, "<f4").any()


@pytest.mark.parametrize(
    "other",
    [event("item-3", "skip"), event("item-3", "dislike"), event("of another shop", "like")],
    ids=lambda e: e.item_id,
)
def test_others_do_not(drift: Drift, other: Event) -> None:
    assert after(drift, other).vector == b""


def test_the_same_events_give_the_same_bytes(bundle: Path, drift: Drift) -> None:
    events = likes(12)
    assert after(Drift(bundle), *events) == after(drift, *events)


def test_a_damaged_item_moves_nobody(bundle: Path) -> None:
    drift = Drift(bundle)
    one, damaged = likes(1)[0], event("item-9", "like", NOON + 9)
    drift._items[int(drift._users.catalog.ids.rows([b"item-9"])[0])] = np.nan
    assert after(drift, one, damaged).vector == after(drift, one).vector


def test_with_another_bundle_the_drift_begins_anew(drift: Drift) -> None:
    first, second = likes(2)
    before = after(drift, first)
    older = msgspec.structs.replace(before, vector_bundle=b"another", vector=b"\x7f" * len(before.vector))
    lost = msgspec.structs.replace(before, vector_bundle=b"", vector=b"")
    grown = [drift(p, apply(p, second, no_facts), second).vector for p in (older, lost)]
    assert grown[0] == grown[1]


def asked(cascade: Cascade, profile: Profile, bundle: bytes) -> Request:
    history = tuple(profile.seen_since(0))
    return Request(b"user-0", live=Live(profile.version, profile.updated_ms, history, (), profile.vector, bundle))


def test_a_request_is_answered_with_the_moved_vector(cascade: Cascade, drift: Drift) -> None:
    profile = after(drift, *likes(10))
    plain, with_drift = (
        cascade.users.read([asked(cascade, profile, version)]).vectors for version in (b"", profile.vector_bundle)
    )
    assert with_drift == pytest.approx(moved(plain, np.frombuffer(profile.vector, "<f4")[None]))
    assert (with_drift != plain).any()


def test_only_who_has_a_drift_is_moved(cascade: Cascade, drift: Drift) -> None:
    profile = after(drift, *likes(10))
    batch = [Request(b"user-1"), asked(cascade, profile, profile.vector_bundle)]
    together, alone = cascade.users.read(batch).vectors, cascade.users.read(batch[:1]).vectors
    assert together[0] == pytest.approx(alone[0], abs=1e-5)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[LocalSource]:
    """A log of some people's likes."""
    log = LocalLog(tmp_path / "log", partitions=2)
    log.append(pairs([one for user in range(5) for one in likes(20, f"user-{user}")]))
    log.close()
    opened = LocalSource(tmp_path / "log")
    yield opened
    opened.close()


def test_from_the_log_to_a_slate(
    source: LocalSource,
    store: ProfileStore,
    server: EmbeddedStore,
    cascade: Cascade,
    drift: Drift,
) -> None:
    Consumer(source, store, no_facts, batch=7, moved=drift).run(until=source.ends())
    (blob,) = store.read([b"user-0"])
    assert blob is not None
    seen: list[Request] = []
    live = LiveProfiles(
        lambda rs: seen.extend(rs) or cascade.recommend(rs), server.url, 0, lambda *_: None, patience=10.0
    )
    (answer,) = live.recommend([Request(b"user-0")])
    live.close()
    assert isinstance(answer, Slate)
    assert seen[0].live is not None
    assert seen[0].live.drift == unpack(blob).vector != b""


def test_batches_of_another_size_give_the_same_profiles(
    source: LocalSource, store: ProfileStore, bundle: Path, drift: Drift
) -> None:
    Consumer(source, store, no_facts, batch=7, moved=drift).run(until=source.ends())
    assert compare(source, store, no_facts, Drift(bundle)) == Comparison(5, [], [])
