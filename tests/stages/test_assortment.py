"""Items that are off offer are in no slate, on no path; those left are found as before; what comes back, is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist.cascade import Cascade
from shortlist.devices import cells
from shortlist.slates import SlateCache
from shortlist.stages.assortment import Assortment
from shortlist.types import Request, Slate
from tests.eligible import attributes_of, is_eligible, make_items, predicates
from tests.factories import make_bundle

ITEMS = 600
TABLE = make_items(ITEMS)
PATHS = ("small", "exact", "cells")  # everything is scored; every eligible row is; the index is searched


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("offer") / "bundle", ITEMS, cells=16, attributes=attributes_of(TABLE))


@pytest.fixture(scope="module")
def on_path(path: Path) -> Iterator[Callable[[str], Cascade]]:
    """A cascade with room, all on offer, whose retrieval takes the one of PATHS that is named."""
    made: dict[str, Cascade] = {}
    with pytest.MonkeyPatch.context() as patch:

        def take(name: str) -> Cascade:
            patch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", ITEMS if name == "small" else 10)
            patch.setattr(cells, "EXACT", 0.0 if name == "exact" else 1e9)
            cascade = made.setdefault(name, Cascade.load(path, seed=0, room=100))
            _offer(cascade, ())
            return cascade

        yield take


def _offer(cascade: Cascade, removed: Any) -> Assortment:
    assert cascade.assortment is not None
    cascade.assortment.replace(removed, {})
    cascade.assortment.publish()
    return cascade.assortment


def _slate(cascade: Cascade, request: Request) -> tuple[bytes, ...]:
    (answer,) = cascade.recommend([request])
    assert isinstance(answer, Slate), answer
    return answer.item_ids


def _ids(rows: Any) -> tuple[bytes, ...]:
    return tuple(f"item-{row}".encode() for row in rows)


REQUESTS = st.builds(
    Request,
    user_id=st.sampled_from([b"user-0", b"user-1", b"user-5", b"", b"nobody"]),
    history=st.sampled_from([(), (b"item-1", b"item-2"), (b"item-9",)]),
    k=st.sampled_from([None, 1, 50]),
    eligible=predicates(),
)


@pytest.mark.parametrize("name", PATHS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(request_=REQUESTS, removed=st.sets(st.integers(0, ITEMS - 1), max_size=400))
def test_no_path_shows_a_removed_item(
    on_path: Callable[[str], Cascade], name: str, request_: Request, removed: set[int]
) -> None:
    cascade = on_path(name)
    _slate(cascade, request_)  # so that the predicate is known before
    _offer(cascade, _ids(removed))
    slate = _slate(cascade, request_)
    allowed = {i for i, item in enumerate(TABLE) if is_eligible(item, request_.eligible)} - removed
    assert set(slate) <= set(_ids(allowed))


@pytest.mark.parametrize("name", ["small", "exact"])
@pytest.mark.parametrize("eligible", [{}, {"in_stock": True}], ids=["anything", "predicate"])
def test_the_best_of_the_others_are_found(
    on_path: Callable[[str], Cascade], name: str, eligible: dict[str, Any]
) -> None:
    cascade = on_path(name)
    removed = range(0, ITEMS, 3)
    _offer(cascade, _ids(removed))
    users = cascade.users.read([Request(user_id=b"user-0", eligible=eligible)])
    scores = cascade.retrieve.all_scores(users)[0]
    ineligible = [i for i, item in enumerate(TABLE) if not is_eligible(item, eligible)]
    scores[[*users.masked[0], *removed, *ineligible, *range(ITEMS, len(scores))]] = -np.inf
    assert cascade.retrieve(users, 50).rows[0].tolist() == np.argsort(-scores, kind="stable")[:50].tolist()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("request_", [Request(user_id=b"user-0"), Request(), Request(eligible={"locale": "de"})])
def test_what_is_restored_is_back(on_path: Callable[[str], Cascade], name: str, request_: Request) -> None:
    cascade = on_path(name)
    before = _slate(cascade, request_)
    assortment = _offer(cascade, before)
    for item_id in before:
        assortment.restore(item_id)
    assortment.publish()
    assert _slate(cascade, request_) == before


def test_with_everything_back_requests_take_the_path_they_took_before(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    _offer(cascade, (b"item-1",))
    _offer(cascade, ())
    assert cascade.users.look_up([Request(user_id=b"user-0")]).eligible == ()


def test_an_item_that_nobody_knows_may_be_removed(on_path: Callable[[str], Cascade]) -> None:
    assert _offer(on_path("cells"), (b"no such item",)).removed == 0


def test_the_search_goes_beyond_a_neighbourhood_that_is_removed(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    users = cascade.users.read([Request(user_id=f"user-{u}".encode()) for u in range(5)])
    nearest = np.argsort(-users.vectors @ cascade.retrieve.vectors[:ITEMS].T, axis=1)
    recall = []
    for vector, rows in zip(users.vectors, nearest, strict=True):
        _offer(cascade, _ids(rows[:300]))
        eligible = cascade.users.read([Request()]).eligible[0]
        recall.append(np.isin(rows[300:330], cascade.retrieve.index.search(vector[None], 30, eligible=eligible)).mean())
    assert np.mean(recall) > 0.5


def test_a_cached_slate_is_given_as_long_as_all_of_it_is_on_offer(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    cache = SlateCache(cascade.recommend, 10, cascade.assortment)
    (slate,) = cache.recommend([Request(user_id=b"user-0")])
    assert isinstance(slate, Slate)
    others = set(_ids(range(ITEMS))) - set(slate.item_ids)
    _offer(cascade, sorted(others)[:5])
    assert cache.recommend([Request(user_id=b"user-0")]) == [slate]


def test_a_cached_slate_is_not_given_with_a_removed_item(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    cache = SlateCache(cascade.recommend, 10, cascade.assortment)
    (slate,) = cache.recommend([Request(user_id=b"user-0")])
    assert isinstance(slate, Slate)
    _offer(cascade, slate.item_ids[3:4])
    (again,) = cache.recommend([Request(user_id=b"user-0")])
    assert isinstance(again, Slate)
    assert slate.item_ids[3] not in again.item_ids


def test_a_cached_slate_is_not_given_once_something_is_back(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    before = _slate(cascade, Request(user_id=b"user-0"))
    assortment = _offer(cascade, before)
    cache = SlateCache(cascade.recommend, 10, assortment)
    cache.recommend([Request(user_id=b"user-0")])
    _offer(cascade, ())
    (slate,) = cache.recommend([Request(user_id=b"user-0")])
    assert isinstance(slate, Slate)
    assert slate.item_ids == before
