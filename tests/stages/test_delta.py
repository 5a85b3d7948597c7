"""New items are scored as rows of the catalogue with the same content are, and are shown where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from shortlist.cascade import Cascade
from shortlist.devices import cells
from shortlist.slates import SlateCache
from shortlist.stages.assortment import Assortment
from shortlist.types import Candidates, Request, Slate
from tests.eligible import attributes_of, is_eligible, make_items, predicates
from tests.factories import make_bundle

ITEMS = 600
TABLE = make_items(ITEMS)
CONTENTS = [{"genre": f"g{i % 4}", "moods": ["dark", f"m{i % 3}"], "year": 1990.0 + i} for i in range(12)]
TWINS = [f"item-{ITEMS - len(CONTENTS) + i}".encode() for i in range(len(CONTENTS))]  # rows with those contents
PATHS = ("small", "cells")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delta")
    kept = {"attributes": attributes_of(TABLE), "contents": CONTENTS, "group_by": "brand", "max_per_group": 3}
    return make_bundle(folder / "bundle", ITEMS, cells=16, **kept)


@pytest.fixture(scope="module")
def on_path(path: Path) -> Iterator[Callable[[str], Cascade]]:
    """A cascade with room, as the bundle is, whose retrieval takes the one of PATHS that is named."""
    made: dict[str, Cascade] = {}
    with pytest.MonkeyPatch.context() as patch:

        def take(name: str) -> Cascade:
            patch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", ITEMS if name == "small" else 10)
            patch.setattr(cells, "EXACT", 1e9)
            cascade = made.setdefault(name, Cascade.load(path, seed=0, room=3000))
            _offer(cascade, {})
            return cascade

        yield take


def _offer(cascade: Cascade, added: dict[bytes, Any], removed: Any = ()) -> Assortment:
    assert cascade.assortment is not None
    cascade.assortment.replace(removed, added)
    cascade.assortment.publish()
    return cascade.assortment


def _slate(cascade: Cascade, request: Request) -> tuple[bytes, ...]:
    (answer,) = cascade.recommend([request])
    assert isinstance(answer, Slate), answer
    return answer.item_ids


def _twins(cascade: Cascade) -> dict[bytes, bytes]:
    """Offer a new item for each content, and tell which row of the catalogue has the same."""
    twins = {f"new-{i}".encode(): twin for i, twin in enumerate(TWINS)}
    _offer(cascade, {f"new-{i}".encode(): content for i, content in enumerate(CONTENTS)})
    return twins


@pytest.mark.parametrize("name", PATHS)
def test_retrieval_scores_a_new_item_as_the_row_with_its_content(on_path: Callable[[str], Cascade], name: str) -> None:
    cascade = on_path(name)
    twins = _twins(cascade)
    users = cascade.users.read([Request(history=(TWINS[0], TWINS[4]))])
    found = cascade.retrieve(users, 500)
    scores = dict(zip(found.rows[0].tolist(), found.channels[0, :, 0].tolist(), strict=True))
    rows = {item_id: int(cascade.catalog.ids.rows([item_id])[0]) for pair in twins.items() for item_id in pair}
    both = [(scores[rows[a]], scores[rows[b]]) for a, b in twins.items() if rows[a] in scores and rows[b] in scores]
    assert len(both) >= 5
    np.testing.assert_allclose(*zip(*both, strict=True), rtol=1e-5)


@pytest.mark.parametrize("stage", ["filter", "rank"])
def test_a_stage_scores_a_new_item_as_the_row_with_its_content(on_path: Callable[[str], Cascade], stage: str) -> None:
    cascade = on_path("small")
    twins = _twins(cascade)
    users = cascade.users.read([Request(history=(b"item-1", b"item-7", TWINS[3]))])
    score = getattr(cascade, stage).score
    new, old = (cascade.catalog.ids.rows(ids)[None] for ids in ([*twins], [*twins.values()]))
    none = np.zeros(new.shape, np.float32), np.zeros((*new.shape, 2), np.float32)
    np.testing.assert_allclose(score(users, Candidates(new, *none)), score(users, Candidates(old, *none)), rtol=1e-5)


def test_new_items_are_diverse_as_the_rows_with_their_content_are(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("small")
    twins = _twins(cascade)
    new, old = (cascade.diversify.items[cascade.catalog.ids.rows(ids)] for ids in ([*twins], [*twins.values()]))
    np.testing.assert_allclose(new, old, atol=1e-3)


@pytest.mark.parametrize("name", PATHS)
def test_who_likes_its_content_is_shown_a_new_item(on_path: Callable[[str], Cascade], name: str) -> None:
    cascade = on_path(name)
    _twins(cascade)
    slate = _slate(cascade, Request(history=(TWINS[2],), exclude=tuple(TWINS), diversity=0.0))
    assert b"new-2" in slate


@pytest.mark.parametrize("name", PATHS)
def test_a_new_item_that_is_removed_is_gone(on_path: Callable[[str], Cascade], name: str) -> None:
    cascade = on_path(name)
    _twins(cascade)
    request = Request(history=(TWINS[2],), exclude=tuple(TWINS), diversity=0.0)
    first = _slate(cascade, request)
    assert cascade.assortment is not None
    cascade.assortment.remove(b"new-2")
    cascade.assortment.publish()
    without = _slate(cascade, request)
    cascade.assortment.restore(b"new-2")
    cascade.assortment.publish()
    assert b"new-2" not in without
    assert _slate(cascade, request) == first


def test_a_forgotten_new_item_is_gone(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    _twins(cascade)
    assert cascade.assortment is not None
    cascade.assortment.forget(b"new-2")
    cascade.assortment.publish()
    assert cascade.assortment.added == len(CONTENTS) - 1


@pytest.mark.parametrize("name", PATHS)
def test_a_new_item_may_be_part_of_a_history(on_path: Callable[[str], Cascade], name: str) -> None:
    cascade = on_path(name)
    _twins(cascade)
    new, old = Request(history=(b"item-5", b"new-1")), Request(history=(b"item-5", TWINS[1]))
    users = cascade.users.read([new, old])
    np.testing.assert_allclose(users.vectors[0], users.vectors[1], rtol=1e-5)
    assert b"new-1" not in _slate(cascade, new)


@pytest.mark.parametrize("name", PATHS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(predicate=predicates())
def test_new_items_are_shown_where_predicates_allow_them(
    on_path: Callable[[str], Cascade], name: str, predicate: dict[str, Any]
) -> None:
    cascade = on_path(name)
    items = make_items(40, seed=1)
    assortment = _offer(cascade, {f"n{i}".encode(): CONTENTS[i % 12] for i in range(len(items))})
    for i, item in enumerate(items):  # the bundle's encoders do not know what predicates ask for
        row = int(cascade.catalog.ids.rows([f"n{i}".encode()])[0])
        assortment._facts[row] = cascade.eligibility.facts({name: _given(values) for name, values in item.items()})
    with assortment.without(b"item-0"):
        pass  # publishes what has changed
    allowed = {f"n{i}".encode() for i, item in enumerate(items) if is_eligible(item, predicate)}
    users = cascade.users.read([Request(history=(b"item-1",), eligible=predicate)])
    rows = cascade.retrieve(users, ITEMS + 40).rows[0]
    found = {cascade.catalog.ids.id(row) for row in rows.tolist() if row >= 0}
    assert {i for i in found if i.startswith(b"n")} == allowed


def _given(values: list[Any]) -> Any:
    """The values of an attribute as an item's owner writes them."""
    return None if not values else values[0] if len(values) == 1 else values


def test_people_without_a_history_are_shown_new_items_last(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    _twins(cascade)
    everything = {"in_stock": {"not": [], "missing": True}}
    popular = cascade.popularity(cascade.users.look_up([Request(eligible=everything)]), 250).rows[0].tolist()
    assert popular[200:212] != [-1] * 12
    assert len(set(popular)) == 250


def test_an_item_whose_attributes_change_moves(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    assortment = _offer(cascade, {b"moving": CONTENTS[0]})
    assortment.add(b"moving", CONTENTS[1])
    assortment.publish()
    row = int(cascade.catalog.ids.rows([b"moving"])[0])
    twin = int(cascade.catalog.ids.rows([TWINS[1]])[0])
    assert assortment.added == 1
    np.testing.assert_allclose(cascade.catalog.table[row], cascade.catalog.table[twin], rtol=1e-5)


LIKES = Request(history=(TWINS[2],), exclude=(*TWINS, b"new"), diversity=0.0)  # would be shown "new", but for that


@pytest.mark.parametrize("name", PATHS)
def test_an_excluded_item_stays_away_while_its_attributes_change(on_path: Callable[[str], Cascade], name: str) -> None:
    cascade = on_path(name)
    assortment = _offer(cascade, {b"new": CONTENTS[2]})
    assortment.add(b"new", CONTENTS[2] | {"year": 1900.0})
    assert b"new" not in _slate(cascade, LIKES)
    assortment.publish()
    assert b"new" not in _slate(cascade, LIKES)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("before", [{}, {b"new": CONTENTS[3]}], ids=["unknown", "other"])
def test_an_excluded_item_stays_away_though_it_comes_while_a_request_is_read(
    on_path: Callable[[str], Cascade], monkeypatch: pytest.MonkeyPatch, name: str, before: dict[bytes, Any]
) -> None:
    cascade = on_path(name)
    assortment, read = _offer(cascade, before), cascade.users._told

    def told(requests: Any) -> Any:
        found = read(requests)
        assortment.add(b"new", CONTENTS[2])
        assortment.publish()
        return found

    monkeypatch.setattr(cascade.users, "_told", told)
    assert b"new" not in _slate(cascade, LIKES)


def test_what_is_told_twice_takes_no_room(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    _offer(cascade, {b"again": CONTENTS[0]})
    row = cascade.catalog.ids.rows([b"again"])
    _offer(cascade, {b"again": dict(CONTENTS[0])})
    assert cascade.catalog.ids.rows([b"again"]) == row


def test_an_item_that_the_bundle_has_is_not_new(on_path: Callable[[str], Cascade]) -> None:
    assortment = _offer(on_path("cells"), {b"item-3": CONTENTS[0]})
    assert (assortment.added, assortment.removed) == (0, 0)


def test_the_cap_on_groups_counts_new_items(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    _offer(cascade, {f"same-{i}".encode(): {**CONTENTS[2], "brand": "unheard of"} for i in range(8)})
    slate = _slate(cascade, Request(history=(TWINS[2],), exclude=tuple(TWINS), diversity=0.0))
    assert sum(item.startswith(b"same-") for item in slate) == 3


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"colour": "red"}, "item.colour = 'red' is invalid; allowed: only the attributes genre, moods, year"),
        ({"year": "soon"}, "item.year = 'soon' is invalid; allowed: a number"),
        ({"moods": "dark"}, "item.moods = 'dark' is invalid; allowed: a list"),
    ],
)
def test_an_impossible_item_is_refused_with_the_reason(
    on_path: Callable[[str], Cascade], attributes: dict[str, Any], said: str
) -> None:
    assortment = _offer(on_path("cells"), {b"bad": attributes, b"good": CONTENTS[0]})
    assert assortment.refused[b"bad"].startswith(said)
    assert assortment.added == 1


def test_beyond_the_room_new_items_are_refused(path: Path) -> None:
    cascade = Cascade.load(path, room=2)
    assortment = _offer(cascade, {f"{i}".encode(): CONTENTS[i] for i in range(3)})
    assert assortment.refused == {b"2": "2 rows for new items are taken; load the model again"}


def test_a_bundle_without_maps_takes_no_new_items_and_says_why(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "plain"), room=10)
    assortment = _offer(cascade, {b"new": {}})
    assert "cannot take new items: it knows no item attributes" in assortment.refused[b"new"]


def _trending(path: Path) -> Cascade:
    """A cascade that offers `new`, which is what people take to now."""
    cascade = Cascade.load(path, seed=0, room=10)
    assortment = _offer(cascade, {b"new": CONTENTS[0]})
    assortment.trending = 1.0
    counted = {"at_ms": 0, "half_lives_s": [3600, 86_400], "totals": [500.0] * 2, "items": [["new", 500.0, 500.0]]}
    assortment.trend([counted], 0)
    return cascade


@pytest.mark.parametrize("leave", [Assortment.remove, Assortment.forget])
def test_the_only_new_item_is_in_no_slate_once_it_is_gone(
    path: Path, leave: Callable[[Assortment, bytes], None]
) -> None:
    cascade = _trending(path)
    assortment = cascade.assortment
    cache = SlateCache(cascade.recommend, 10, assortment)
    assert b"new" in _slate(cascade, Request(diversity=0.0))
    (kept,) = cache.recommend([Request(diversity=0.0)])
    assert isinstance(kept, Slate)
    assert assortment is not None
    leave(assortment, b"new")
    assortment.publish()
    assert b"new" not in _slate(cascade, Request(diversity=0.0))
    assert b"new" not in _slate(cascade, Request(diversity=0.0, eligible={"in_stock": {"not": [], "missing": True}}))
    (again,) = cache.recommend([Request(diversity=0.0)])
    assert isinstance(again, Slate)
    assert b"new" not in again.item_ids


def test_a_batch_that_began_before_a_new_item_trended_answers(path: Path) -> None:
    cascade = Cascade.load(path, room=3000)
    users = cascade.users.look_up([Request(eligible={"in_stock": True})])
    assortment = _offer(cascade, {f"new-{i}".encode(): CONTENTS[0] for i in range(3000)})
    assortment.trending = 1.0
    items = [[f"new-{i}", 500.0, 500.0] for i in range(2900, 3000)]
    assortment.trend([{"at_ms": 0, "half_lives_s": [3600, 86_400], "totals": [5e4] * 2, "items": items}], 0)
    assert cascade.popularity(users, 50).rows.max() < ITEMS


def test_a_slate_with_an_item_that_nobody_knows_is_not_allowed(path: Path) -> None:
    assortment = Cascade.load(path, room=10).assortment
    assert assortment is not None
    assert assortment.allows([b"item-1"])
    assert not assortment.allows([b"item-1", b"new"])


def test_a_slate_that_the_deployment_forbids_is_not_allowed(path: Path) -> None:
    assortment = Cascade.load(path, eligible={"in_stock": True}, room=10).assortment
    assert assortment is not None
    for row, item in enumerate(TABLE[:20]):
        assert assortment.allows([f"item-{row}".encode()]) == is_eligible(item, {"in_stock": True})


def test_what_cannot_be_offered_is_not_restored_as_it_was(on_path: Callable[[str], Cascade]) -> None:
    assortment = _offer(on_path("cells"), {b"new": CONTENTS[0]})
    assortment.add(b"new", {"year": "soon"})
    assortment.restore(b"new")
    assortment.publish()
    assert assortment.added == 0


def test_a_group_that_is_no_number_where_the_data_have_numbers_is_refused(tmp_path: Path) -> None:
    kept = {"attributes": attributes_of(TABLE), "contents": CONTENTS, "group_by": "price", "max_per_group": 3}
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", ITEMS, **kept), room=10)
    assortment = _offer(cascade, {b"bad": {"price": "cheap"}, b"good": {"price": 3}}, removed=[b"item-1"])
    assert assortment.refused[b"bad"].startswith("item.price = 'cheap'")
    assert (assortment.added, assortment.removed) == (1, 1)
