"""A bundle knows what to make of items that it was not trained with: the same as of those that nobody has had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.config import Config
from shortlist.models.ranker import Ranker
from shortlist.models.retriever import Retriever
from shortlist.training.run import train
from shortlist.types import Candidates, Request, Slate
from tests.planted import table_config

RINGS = 3
UNSEEN = [f"unseen{r}" for r in range(RINGS)]  # in the catalogue, without an event
pytestmark = pytest.mark.slow


def _attributes(ring: int, number: int) -> dict[str, Any]:
    return {"ring": f"r{ring}", "mood": f"m{number % 7}", "stock": True, "brand": f"b{number % 5}"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained where people keep to one of three rings of items, and an attribute says which ring an item is of."""
    folder = tmp_path_factory.mktemp("rings")
    items = {f"item{i}": _attributes(i // 40, i) for i in range(120)}
    items |= {name: _attributes(ring, ring) for ring, name in enumerate(UNSEEN)}
    content = table_config(folder, items)
    content["cascade"] |= {"eligibility": ("ring", "stock"), "group_by": "brand", "max_per_group": 40}
    content["filter"]["item_precision"] = "int8"
    return train(Config.parse(content), folder / "run", show_progress=False)


@pytest.fixture(scope="module")
def cascade(run: Path) -> Cascade:
    """Serves the run, and new items with the attributes of those that nobody has had."""
    loaded = Cascade.load(run / "bundle", room=100)
    assert loaded.assortment is not None
    for ring in range(RINGS):
        loaded.assortment.add(f"new{ring}".encode(), _attributes(ring, ring))
    loaded.assortment.publish()
    return loaded


def _pairs(cascade: Cascade) -> Any:
    """Rows [3] of the new items and of their likes in the catalogue."""
    ids = cascade.catalog.ids
    return ids.rows([f"new{r}".encode() for r in range(RINGS)]), ids.rows([u.encode() for u in UNSEEN])


@pytest.mark.parametrize("part", ["retrieval", "history", "ranker", "features"])
def test_a_new_item_has_the_vectors_of_an_unseen_one(cascade: Cascade, part: str) -> None:
    new, old = _pairs(cascade)
    np.testing.assert_allclose(cascade.catalog.part(part)[new], cascade.catalog.part(part)[old], atol=1e-6)


def test_a_new_item_filters_diversifies_and_groups_as_an_unseen_one(cascade: Cascade) -> None:
    new, old = _pairs(cascade)
    assert cascade.diversify.groups is not None
    tables = (cascade.filter.items, cascade.diversify.items, cascade.diversify.groups)
    for table, rounding in zip(tables, (1, 1e-3, 0), strict=True):  # a step of int8, of float16
        within = rounding if table.dtype == np.int8 else min(rounding, 1e-3)
        np.testing.assert_allclose(table[new].astype(float), table[old].astype(float), atol=within)


@pytest.mark.parametrize("stage", ["filter", "rank"])
def test_a_new_item_scores_as_an_unseen_one(cascade: Cascade, stage: str) -> None:
    new, old = _pairs(cascade)
    users = cascade.users.read([Request(user_id=b"user1"), Request(user_id=b"user2"), Request(user_id=b"user3")])
    channels = np.zeros((3, RINGS, 2), np.float32)
    scores = [
        getattr(cascade, stage).score(users, Candidates(np.repeat(rows[None], 3, axis=0), channels[..., 0], channels))
        for rows in (new, old)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)


def test_people_who_like_its_content_see_a_new_item_and_others_hardly_do(cascade: Cascade) -> None:
    seen: dict[bool, list[bool]] = {True: [], False: []}
    profiles = cascade.users.profiles
    for user in (f"user{u}".encode() for u in range(60)):
        first = int(profiles.history(int(profiles.find([user])[0]))[0])
        own = int(cascade.catalog.ids.id(first).removeprefix(b"item")) // 40
        (slate,) = cascade.recommend([Request(user_id=user, k=50, diversity=0.0)])
        assert isinstance(slate, Slate)
        for ring in range(RINGS):
            seen[ring == own].append(f"new{ring}".encode() in slate.item_ids)
    assert np.mean(seen[True]) > 0.9
    assert np.mean(seen[False]) < 0.4


def test_predicates_know_a_new_item(cascade: Cascade) -> None:
    (slate,) = cascade.recommend([Request(user_id=b"user1", k=50, eligible={"ring": "r2", "stock": True})])
    assert isinstance(slate, Slate)
    assert {b"new2"} <= set(slate.item_ids)
    assert not {b"new0", b"new1"} & set(slate.item_ids)


def test_a_bundle_that_was_trained_with_it_has_no_new_row_of_it(run: Path) -> None:
    loaded = Cascade.load(run / "bundle", room=100)
    assert loaded.assortment is not None
    loaded.assortment.add(UNSEEN[0].encode(), _attributes(0, 0))
    loaded.assortment.publish()
    assert loaded.assortment.added == 0


def test_the_maps_are_kept_with_the_models(run: Path) -> None:
    retriever, ranker = Retriever.load(run / "models"), Ranker.load(run / "models")
    cascade = Cascade.load(run / "bundle")
    unseen = cascade.catalog.ids.rows([u.encode() for u in UNSEEN])
    content = np.stack([cascade.users.features.item_row(_attributes(r, r) | {"stock": "true"}) for r in range(RINGS)])
    maps = {"retrieval": retriever.content_map(), "ranker": ranker.content_map}
    for part, content_map in maps.items():
        assert content_map is not None
        np.testing.assert_allclose(content @ content_map, cascade.catalog.part(part)[unseen], atol=1e-6)
