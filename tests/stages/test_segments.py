"""Lists of segments: ordered by the person's own vector, without what they must not get."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.serving.segments import find_segments
from shortlist.stages.segments import SegmentLists
from shortlist.types import FALLBACK, Request, Slate, UserBatch
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    cascade = Cascade.load(make_bundle(tmp_path_factory.mktemp("segments") / "bundle", users=60))
    cascade.warm_up()
    return cascade


@pytest.fixture(scope="module")
def segment_lists(cascade: Cascade) -> SegmentLists:
    found = find_segments(cascade)
    assert found is not None
    rows = found.rows[:, :50]
    return SegmentLists(cascade.popularity, cascade.retrieve.vectors, found.centroids, rows)


@pytest.fixture
def users(cascade: Cascade) -> UserBatch:
    return cascade.users.read([Request(b"user-0"), Request(b"user-0", exclude=(b"item-3",))])


def test_a_list_is_ordered_by_the_persons_own_vector(
    cascade: Cascade, segment_lists: SegmentLists, users: UserBatch
) -> None:
    found = segment_lists(users, 20)
    own = np.asarray(cascade.retrieve.vectors)[found.rows[0]] @ users.vectors[0]
    assert found.scores[0] == pytest.approx(own, abs=1e-5)
    assert (np.diff(found.scores[0]) <= 0).all()


def test_masked_items_are_left_out(segment_lists: SegmentLists, users: UserBatch) -> None:
    first = segment_lists(users, 20).rows[0]
    masked = replace(users, masked=(first[:10], first[:10]))
    assert not set(segment_lists(masked, 20).rows[0].tolist()) & set(first[:10].tolist())


def test_a_list_that_is_too_short_is_filled_with_what_is_popular(segment_lists: SegmentLists, users: UserBatch) -> None:
    found = segment_lists(users, 100)
    assert (found.rows >= 0).all()
    assert all(len(set(rows.tolist())) == 100 for rows in found.rows)
    assert (np.diff(found.scores) <= 0).all()


def hurried(cascade: Cascade, request: Request) -> Slate:
    """The answer when there is no time to retrieve."""
    for stage in ("retrieve", "filter", "rank"):
        cascade.costs.stages[stage].fixed = 1000.0
    (answer,) = cascade.recommend([replace(request, deadline_unix_us=time.time_ns() // 1000 + 60_000_000)])
    assert isinstance(answer, Slate), answer
    return answer


def test_who_is_known_gets_their_segments_list_when_time_is_short(tmp_path: Path, segment_lists: SegmentLists) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", users=60))
    cascade.warm_up()
    popular = hurried(cascade, Request(b"user-0", diversity=0.0))
    cascade.segments = segment_lists
    mine = hurried(cascade, Request(b"user-0", diversity=0.0))
    assert (popular.status, mine.status) == (FALLBACK, FALLBACK)
    wanted = segment_lists(cascade.users.read([Request(b"user-0")]), 10).rows[0]
    assert mine.item_ids == tuple(cascade.catalog.ids.id(row) for row in wanted.tolist())
    assert mine.item_ids != popular.item_ids


def test_who_is_unknown_gets_what_is_popular_all_the_same(tmp_path: Path, segment_lists: SegmentLists) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", users=60))
    cascade.warm_up()
    before = hurried(cascade, Request())
    cascade.segments = segment_lists
    assert hurried(cascade, Request()).item_ids == before.item_ids
