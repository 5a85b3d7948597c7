"""Retrieval returns the exact fused order, masks what it must, and leaves its scratch clean."""

from dataclasses import replace

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.stages.retrieve import Retrieve
from shortlist.types import UserBatch
from tests.factories import DIM, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("retrieve") / "bundle"))


def _users(batch: int, items: int, seed: int = 0, masked: int = 7) -> UserBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 11, batch)
    history = np.full((batch, 10), -1, np.int32)
    for row, length in zip(history, lengths, strict=True):
        row[:length] = rng.choice(items, length, replace=False)
    return UserBatch(
        history,
        lengths.astype(np.int64),
        np.zeros((batch, 1), np.float32),
        rng.normal(size=(batch, DIM)).astype(np.float32),
        tuple(rng.choice(items, masked, replace=False).astype(np.int32) for _ in range(batch)),
        np.zeros(batch, np.int32),
    )


def _brute_force(bundle: Bundle, users: UserBatch) -> np.ndarray:
    """Fused scores [B, N] by dense arithmetic; -inf where masked."""
    vectors = Catalog.load(bundle).part("retrieval")
    indptr, indices, values = (bundle.array(f"linear0_{p}") for p in ("indptr", "indices", "values"))
    dense = np.zeros((len(vectors), len(vectors)), np.float32)
    for row in range(len(vectors)):
        dense[row, indices[indptr[row] : indptr[row + 1]]] = values[indptr[row] : indptr[row + 1]]
    scores = users.vectors @ vectors.T
    for b, length in enumerate(users.lengths):
        weights = 0.9 ** np.arange(length)[::-1]
        scores[b] += weights @ dense[users.history[b, :length]]
        scores[b, users.masked[b]] = -np.inf
    return scores


@pytest.mark.parametrize("depth", [1, 50, 299, 400])
def test_equals_brute_force(bundle: Bundle, depth: int) -> None:
    retrieve = Retrieve(bundle, Catalog.load(bundle))
    users = _users(9, 300)
    expected = _brute_force(bundle, users)
    found = retrieve(users, depth)
    for b in range(9):
        order = np.argsort(-expected[b], kind="stable")[: min(depth, 293)]
        assert found.rows[b, : len(order)].tolist() == order.tolist()
        np.testing.assert_allclose(found.scores[b, : len(order)], expected[b, order], rtol=1e-4, atol=1e-5)
        assert (found.rows[b, len(order) :] == -1).all()


def test_large_catalogues_need_only_the_proposals(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the exact limit, the best by either channel alone are always in the pool."""
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", 10)
    users = _users(9, 300)
    expected = _brute_force(bundle, users)
    found = Retrieve(bundle, Catalog.load(bundle))(users, 50)
    for b in range(9):
        best = set(np.argsort(-expected[b], kind="stable")[:50].tolist())
        assert len(best & set(found.rows[b].tolist())) >= 47


def test_what_others_exclude_changes_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", 10)
    retrieve, users = Retrieve(bundle, Catalog.load(bundle)), _users(19, 300, masked=1)
    company = replace(users, masked=(*users.masked[:18], np.arange(298, dtype=np.int32)))
    beside = retrieve(company, 3)
    assert beside.rows[18, 2] == -1
    for b in range(18):
        assert np.array_equal(retrieve(users.take(np.array([b])), 3).rows[0], beside.rows[b])


@pytest.mark.parametrize("limit", [10, 4000])
def test_a_vector_that_is_no_number_costs_only_its_own(
    bundle: Bundle, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", limit)
    retrieve, users = Retrieve(bundle, Catalog.load(bundle)), _users(2, 300)
    whole = retrieve(users, 50)
    broken = users.take(np.array([0, 1]))
    broken.vectors[0] = np.nan
    found = retrieve(broken, 50)
    assert (found.rows[0] == -1).all()
    assert np.array_equal(found.rows[1], whole.rows[1])
    assert np.array_equal(retrieve(users, 50).rows, whole.rows)


def test_channels_add_up_to_the_score(bundle: Bundle) -> None:
    found = Retrieve(bundle, Catalog.load(bundle))(_users(4, 300), 60)
    np.testing.assert_allclose(found.channels.sum(axis=2), found.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [10, 4000])
def test_a_request_answers_the_same_alone_in_company_and_again(
    bundle: Bundle, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", limit)
    retrieve = Retrieve(bundle, Catalog.load(bundle))
    users = _users(40, 300)
    together = retrieve(users, 50)
    for b in (0, 17, 39):
        alone = retrieve(users.take(np.array([b])), 50)
        assert np.array_equal(alone.rows[0], together.rows[b])
        assert np.array_equal(alone.scores[0], together.scores[b])
    assert np.array_equal(retrieve(users, 50).rows, together.rows)


def test_scores_of_the_whole_catalogue_are_those_of_the_candidates(bundle: Bundle) -> None:
    retrieve = Retrieve(bundle, Catalog.load(bundle))
    users = _users(6, 300)
    everything, found = retrieve.all_scores(users), retrieve(users, 60)
    np.testing.assert_allclose(np.take_along_axis(everything, found.rows.astype(np.int64), 1), found.scores, atol=1e-4)


def test_who_masks_everything_gets_nothing(bundle: Bundle) -> None:
    users = replace(_users(1, 300), masked=(np.arange(300, dtype=np.int32),))
    assert (Retrieve(bundle, Catalog.load(bundle))(users, 5).rows == -1).all()


def test_masked_rows_never_come_back(bundle: Bundle) -> None:
    users = _users(20, 300, masked=150)
    found = Retrieve(bundle, Catalog.load(bundle))(users, 300)
    for rows, masked in zip(found.rows, users.masked, strict=True):
        assert not np.isin(rows, masked).any()
        assert (rows >= 0).sum() == 150
