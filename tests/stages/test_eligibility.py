"""Never an ineligible item, whatever the path; and among the eligible ones the same order as without a predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.devices import cells
from shortlist.errors import ConfigError, RequestError
from shortlist.stages.eligibility import Eligibility
from shortlist.types import Request, Slate
from tests.eligible import attributes_of, is_eligible, make_items, predicates
from tests.factories import make_bundle

ITEMS = 600
TABLE = make_items(ITEMS)
EXACT = cells.EXACT
PATHS = ("small", "exact", "cells")  # everything is scored; every eligible row is; the index is searched
KEEP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eligible") / "bundle"
    return make_bundle(folder, ITEMS, cells=16, attributes=attributes_of(TABLE), exploration=0.3)


@pytest.fixture(scope="module")
def on_path(path: Path) -> Iterator[Callable[[str], Cascade]]:
    """A cascade whose retrieval takes the one of PATHS that is named."""
    made: dict[str, Cascade] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in PATHS:
            patch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", ITEMS if name == "small" else 10)
            made[name] = Cascade.load(path, seed=0)
            patch.setattr(cells, "EXACT", 0.0 if name == "exact" else 1e9)
            made[name].warm_up()
        yield lambda name: _with(patch, made, name)


def _with(patch: pytest.MonkeyPatch, made: dict[str, Cascade], name: str) -> Cascade:
    patch.setattr(cells, "EXACT", 0.0 if name == "exact" else 1e9)
    return made[name]


def _slate(cascade: Cascade, request: Request) -> Slate:
    (answer,) = cascade.recommend([request])
    assert isinstance(answer, Slate), answer
    return answer


def _rows(cascade: Cascade, slate: Slate) -> list[int]:
    return cascade.catalog.ids.rows(slate.item_ids).tolist()


def _expected(predicate: dict[str, Any]) -> set[int]:
    return {row for row, item in enumerate(TABLE) if is_eligible(item, predicate)}


REQUESTS = st.builds(
    Request,
    user_id=st.sampled_from([b"user-0", b"user-1", b"user-5", b"", b"nobody"]),
    history=st.sampled_from([(), (b"item-1", b"item-2"), (b"item-9",)]),
    exclude=st.sampled_from([(), (b"item-3",), tuple(f"item-{i}".encode() for i in range(0, ITEMS, 2))]),
    k=st.sampled_from([None, 1, 50]),
    diversity=st.sampled_from([None, 0.0, 1.0]),
    eligible=predicates(),
)


@pytest.mark.parametrize("name", PATHS)
@KEEP
@given(requests=st.lists(REQUESTS, min_size=1, max_size=5))
def test_no_ineligible_item_on_any_path(on_path: Callable[[str], Cascade], name: str, requests: list[Request]) -> None:
    cascade = on_path(name)
    for request, slate in zip(requests, cascade.recommend(requests), strict=True):
        assert isinstance(slate, Slate), slate
        assert set(_rows(cascade, slate)) <= _expected(dict(request.eligible))
        assert not set(slate.item_ids) & set(request.exclude)


@KEEP
@given(predicate=predicates())
def test_bitmaps_say_what_the_predicate_says(path: Path, predicate: dict[str, Any]) -> None:
    eligibility = Eligibility(Bundle.open(path, verify=False), ITEMS)
    found = eligibility.rows(eligibility.read(predicate))
    rows = set(range(ITEMS)) if found is None else set(np.flatnonzero(np.unpackbits(found.bits, bitorder="little")))
    assert rows == _expected(predicate)


@pytest.mark.parametrize("name", ["small", "exact"])
@KEEP
@given(predicate=predicates().filter(bool), user=st.integers(0, 39))
def test_candidates_are_the_eligible_ones_in_the_order_without_a_predicate(
    on_path: Callable[[str], Cascade], name: str, predicate: dict[str, Any], user: int
) -> None:
    cascade = on_path(name)
    person = Request(user_id=f"user-{user}".encode(), eligible=predicate)
    users = cascade.users.read([person])
    scores = cascade.retrieve.all_scores(users)[0]
    scores[users.masked[0]] = -np.inf
    scores[sorted(set(range(ITEMS)) - _expected(predicate))] = -np.inf
    best = np.argsort(-scores, kind="stable")[:100]
    found = cascade.retrieve(users, 100)
    real = found.rows[0] >= 0
    assert real.sum() == min(100, np.isfinite(scores).sum())
    np.testing.assert_allclose(found.scores[0, real], scores[best][: real.sum()], rtol=1e-4, atol=1e-5)


def test_the_index_finds_most_of_the_best_eligible_rows(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("cells")
    asked = [Request(user_id=f"user-{u}".encode(), eligible={"locale": "de"}) for u in range(20)]
    users = cascade.users.read(asked)
    eligible = users.eligible[0]
    assert eligible is not None
    assert eligible.cells is not None
    found = cascade.retrieve.index.search(users.vectors, 30, eligible=eligible)
    allowed = sorted(_expected({"locale": "de"}))
    exact = np.array(allowed)[np.argsort(-users.vectors @ cascade.retrieve.vectors[allowed].T, axis=1)[:, :30]]
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    assert recall > 0.8


def test_strict_predicates_are_scored_row_by_row_and_loose_ones_searched(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", 10)
        patch.setattr(cells, "EXACT", EXACT)
        cascade = Cascade.load(path)
        few, many = cascade.eligibility.of([Request(eligible={"locale": "is"}), Request(eligible={"in_stock": True})])
    assert few is not None
    assert many is not None
    assert (few.rows is None, many.rows is None) == (False, True)
    assert (few.cells is None, many.cells is None) == (True, False)


def test_a_standing_predicate_holds_for_every_request_and_beside_its_own(path: Path) -> None:
    cascade = Cascade.load(path, eligible={"in_stock": True})
    alone, both = Request(user_id=b"user-0", k=50), Request(user_id=b"user-0", k=50, eligible={"locale": "fr"})
    assert set(_rows(cascade, _slate(cascade, alone))) <= _expected({"in_stock": True})
    assert set(_rows(cascade, _slate(cascade, both))) <= _expected({"in_stock": True, "locale": "fr"})


def test_a_standing_predicate_that_does_not_fit_stops_the_start(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eligible\.colour = 'red' .* in_stock, locale"):
        Cascade.load(path, eligible={"colour": "red"})


def test_a_cold_user_whose_list_has_nothing_eligible_gets_the_most_popular_eligible_items(tmp_path: Path) -> None:
    """The lists name 200 of the items; of the others only everyone's popularity is known."""
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", ITEMS, attributes=attributes_of(TABLE)))
    unlisted = sorted(set(range(ITEMS)) - set(bundle.array("popularity_rows")[0].tolist()))
    eligible = attributes_of([{**item, "locale": ["zz"] if row in unlisted else []} for row, item in enumerate(TABLE)])
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", ITEMS, attributes=eligible))
    slate = _slate(cascade, Request(diversity=0.0, eligible={"locale": "zz"}))
    shares = bundle.array("popularity_everyone")[unlisted]
    assert _rows(cascade, slate) == np.array(unlisted)[np.argsort(-shares, kind="stable")[:10]].tolist()


def test_the_fallback_respects_it_too(on_path: Callable[[str], Cascade]) -> None:
    cascade = on_path("small")
    users = cascade.users.look_up([Request(user_id=b"user-0", eligible={"locale": "is"})])
    rows = cascade.popularity(users, 100).rows[0]
    assert set(rows[rows >= 0].tolist()) == _expected({"locale": "is"}) - set(users.masked[0].tolist())


def test_company_with_other_predicates_changes_nothing(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.config = cascade.config.model_copy(update={"exploration": 0.0})
    kinds: list[dict[str, Any]] = [{}, {"locale": "de"}, {"in_stock": False}, {"age_rating": {"max": 12}}]
    requests = [Request(user_id=f"user-{u}".encode(), eligible=kinds[u % 4]) for u in range(24)]
    together = cascade.recommend(requests)
    alone = [cascade.recommend([request])[0] for request in requests]
    assert [a.item_ids for a in together if isinstance(a, Slate)] == [a.item_ids for a in alone if isinstance(a, Slate)]


@pytest.mark.parametrize(
    ("eligible", "message"),
    [
        ({"colour": "red"}, r"eligible\.colour = 'red' .* in_stock, locale, genres, age_rating, price"),
        ({"locale": None}, r"eligible\.locale = None .* a string, an integer, true or false"),
        ({"locale": {"min": 3}}, r"eligible\.locale = .* any, not and, beside them, missing"),
        ({"locale": {}}, r"eligible\.locale = .* any, not"),
        ({"locale": {"missing": True}}, r"eligible\.locale = .* any, not"),
        ({"locale": {"any": "de"}}, r"eligible\.locale\.any = 'de' .* a list"),
        ({"locale": {"any": ["de"], "missing": 1}}, r"eligible\.locale\.missing = 1 .* true or false"),
        ({"age_rating": "16"}, r"eligible\.age_rating = '16' .* a number"),
        ({"age_rating": {"max": "16"}}, r"eligible\.age_rating\.max = '16' .* a number"),
        ({"age_rating": {"max": True}}, r"eligible\.age_rating\.max = True .* a number"),
        ({"age_rating": {"max": float("nan")}}, r"eligible\.age_rating\.max = nan .* a number"),
        ({"age_rating": [[16]]}, r"eligible\.age_rating = \[16\] .* a number"),
        ({"locale": 10**5000}, r"eligible\.locale = an integer of many digits .* a string"),
    ],
)
def test_what_does_not_fit_the_bundle_is_refused_alone(
    on_path: Callable[[str], Cascade], eligible: dict[str, Any], message: str
) -> None:
    answers = on_path("small").recommend([Request(eligible=eligible), Request(eligible={"locale": "de"})])
    assert isinstance(answers[1], Slate)
    with pytest.raises(RequestError, match=message):
        raise answers[0]  # type: ignore[misc]


def test_a_bundle_without_attributes_says_how_to_have_them(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle"))
    (answer,) = cascade.recommend([Request(eligible={"in_stock": True})])
    assert "cascade.eligibility" in str(answer)


def test_equal_meanings_share_a_bitmap(path: Path) -> None:
    eligibility = Eligibility(Bundle.open(path), ITEMS)
    for wanted in (["de", "en"], ["en", "de", "de"], {"any": ["de", "en", "of no item"], "missing": False}):
        eligibility.rows(eligibility.read({"locale": wanted}))
    assert (eligibility.compiled, eligibility.hits) == (1, 2)


def test_bitmaps_are_kept_up_to_a_number_of_bytes(path: Path) -> None:
    eligibility = Eligibility(Bundle.open(path), ITEMS, capacity=30_000)
    for price in range(100):
        eligibility.rows(eligibility.read({"price": {"max": price}}))
    before = eligibility.compiled
    for price in (99, 98, 0):
        eligibility.rows(eligibility.read({"price": {"max": price}}))
    assert before == 100
    assert eligibility.compiled == 101
    assert len(eligibility._kept) < 5


def test_numbers_are_compared_exactly(tmp_path: Path) -> None:
    """0.1 is no float32: an item just above the limit must not slip through by rounding."""
    table = [{**item, "price": [0.1 if row else 0.1 + 1e-12]} for row, item in enumerate(make_items(50))]
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", 50, attributes=attributes_of(table)))
    eligibility = Eligibility(bundle, 50)
    found = eligibility.rows(eligibility.read({"price": {"max": 0.1}}))
    assert found is not None
    assert found.count == 49


def test_after_warming_up_no_predicate_compiles(on_path: Callable[[str], Cascade]) -> None:
    from shortlist import attributes, bitmap

    compiled = (bitmap.add, bitmap.contains, bitmap._count, bitmap._list, cells._picked, attributes._between)
    cascade = on_path("cells")
    known = [len(function.signatures) for function in compiled]
    for eligible in ({"locale": ["de", "is"]}, {"price": {"max": 3}}, {"genres": {"not": ["horror"]}}):
        cascade.recommend([Request(user_id=b"user-0", eligible=eligible), Request(eligible=eligible)])
    assert [len(function.signatures) for function in compiled] == known
