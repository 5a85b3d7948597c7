"""A cascade uses the segments of a store while all of them are there and of its own bundle."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.deadlines import SEGMENT as SEGMENT_STAGE
from shortlist.deadlines import StageCost
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.precomputed import SEGMENT, pack, read_segment
from shortlist.profiles.store import ProfileStore
from shortlist.serving.precompute import Slates, segment_blobs
from shortlist.serving.segment_watch import SegmentWatch
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("segments") / "bundle", users=60)


@pytest.fixture(scope="module")
def blobs(bundle: Path) -> dict[bytes, bytes]:
    return segment_blobs(Bundle.open(bundle))


@pytest.fixture
def cascade(bundle: Path) -> Cascade:
    return Cascade.load(bundle)


@contextmanager
def watching(cascade: Cascade, url: str) -> Iterator[SegmentWatch]:
    watch = SegmentWatch(cascade, url)
    yield watch
    watch.stop()


def test_segments_of_the_store_are_used(
    cascade: Cascade, server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes]
) -> None:
    Slates(store, 100).put(blobs)
    with watching(cascade, server.url) as watch:
        watch.look()
    assert cascade.segments is not None


def test_segments_that_are_gone_are_used_no_more(
    cascade: Cascade, server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes]
) -> None:
    Slates(store, 100).put(blobs)
    with watching(cascade, server.url) as watch:
        watch.look()
        store.command("DEL", SEGMENT + b"1")
        watch.look()
    assert cascade.segments is None


def test_segments_of_another_bundle_are_not_used(
    server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes], tmp_path: Path
) -> None:
    Slates(store, 100).put(blobs)
    other = Cascade.load(make_bundle(tmp_path / "bundle", users=60, seed=1))
    with watching(other, server.url) as watch:
        watch.look()
    assert other.segments is None


def test_a_store_that_is_down_changes_nothing(cascade: Cascade, blobs: dict[bytes, bytes], tmp_path: Path) -> None:
    mortal = EmbeddedStore(tmp_path / "store")
    store = ProfileStore(mortal.url)
    Slates(store, 100).put(blobs)
    store.close()
    with watching(cascade, mortal.url) as watch:
        watch.look()
        before = cascade.segments
        mortal.stop()
        watch.look()
    assert before is not None
    assert cascade.segments is before


def test_once_started_it_looks_by_itself(
    cascade: Cascade, server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes]
) -> None:
    Slates(store, 100).put(blobs)
    with watching(cascade, server.url) as watch:
        watch.start()
        until = time.monotonic() + 20
        while cascade.segments is None and time.monotonic() < until:
            time.sleep(0.01)
    assert cascade.segments is not None


@pytest.mark.parametrize(
    "damage", [{"items": [b"no such item"] * 200}, {"items": [b"item-1"]}, {"centroid": b"1234"}, {"centroid": b"1"}]
)
def test_segments_that_do_not_fit_the_bundle_are_not_used(
    cascade: Cascade, server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes], damage: dict[str, Any]
) -> None:
    whole = read_segment(blobs[SEGMENT + b"1"])
    assert whole is not None
    Slates(store, 100).put(blobs | {SEGMENT + b"1": pack(msgspec.structs.replace(whole, **damage))})
    with watching(cascade, server.url) as watch:
        watch.look()
    assert cascade.segments is None


def test_without_segments_nobody_expects_their_cost(
    cascade: Cascade, server: EmbeddedStore, store: ProfileStore, blobs: dict[bytes, bytes]
) -> None:
    cascade.costs.stages["retrieve"] = StageCost(1.0, 1.0)
    Slates(store, 100).put(blobs)
    with watching(cascade, server.url) as watch:
        watch.look()
        known = SEGMENT_STAGE in cascade.costs.stages
        store.command("FLUSHALL")
        watch.look()
    assert known
    assert SEGMENT_STAGE not in cascade.costs.stages
