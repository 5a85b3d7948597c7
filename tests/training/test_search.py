"""The best items of a large catalogue are found without scoring it, and scored as if it had been."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.config import TowerConfig
from shortlist.data.splits import Examples
from shortlist.models.linear import LinearChannel
from shortlist.models.retriever import Blend, Retriever, build_tower
from shortlist.training.negatives import retrieve
from shortlist.training.search import NearestItems
from tests.ranking import walking_log

ITEMS, REQUESTS, DEPTH = 3000, 40, 20
RNG = np.random.default_rng(0)
HISTORY = RNG.integers(0, ITEMS, (REQUESTS, 6))
LENGTHS = RNG.integers(1, 7, REQUESTS)
HISTORY[np.arange(6) >= LENGTHS[:, None]] = -1
SIDE = np.zeros((REQUESTS, 0), np.float32)
NOTHING = [np.empty(0, np.int32)] * REQUESTS


def retriever(channels: int) -> Retriever:
    config = TowerConfig(dim=16, dropout=0.0)
    centres = RNG.standard_normal((30, 16))
    table = (centres[RNG.integers(0, 30, ITEMS)] + 0.5 * RNG.standard_normal((ITEMS, 16))).astype(np.float32)
    listed = [
        LinearChannel(
            np.arange(ITEMS + 1, dtype=np.int64) * 8,
            np.concatenate([RNG.choice(ITEMS, 8, replace=False) for _ in range(ITEMS)]).astype(np.int32),
            RNG.random(ITEMS * 8).astype(np.float32) * 20,
            0.8,
        )
        for _ in range(channels)
    ]
    blend = Blend((1.0,), (1.0,) * channels)
    return Retriever([config], [build_tower(config, 0).eval()], [table], listed, blend, 0, True)


@pytest.mark.parametrize("channels", [0, 2])
def test_nearly_all_of_the_best_items_are_found(channels: int) -> None:
    whole = retriever(channels)
    scores = sum(whole.scores(HISTORY, LENGTHS, SIDE))
    best = np.argsort(-scores, axis=1)[:, :DEPTH]
    rows, _ = NearestItems(whole).nearest(HISTORY, LENGTHS, SIDE, DEPTH, NOTHING)
    assert np.mean([np.isin(b, r).mean() for b, r in zip(best, rows, strict=True)]) > 0.97


@pytest.mark.parametrize("channels", [0, 2])
def test_what_is_found_has_the_scores_of_the_whole_catalogue(channels: int) -> None:
    whole = retriever(channels)
    parts = np.stack(whole.scores(HISTORY, LENGTHS, SIDE), axis=2)
    found = NearestItems(whole)
    rows, scores = found.nearest(HISTORY, LENGTHS, SIDE, DEPTH, NOTHING)
    np.testing.assert_allclose(
        scores, np.take_along_axis(parts, rows[:, :, None].astype(np.int64), 1), rtol=1e-4, atol=1e-4
    )
    wanted = RNG.integers(0, ITEMS, REQUESTS).astype(np.int32)
    expected = parts[np.arange(REQUESTS), wanted]
    np.testing.assert_allclose(found.of_items(HISTORY, LENGTHS, SIDE, wanted), expected, rtol=1e-4, atol=1e-4)


def test_masked_items_are_never_found_and_others_take_their_places() -> None:
    found = NearestItems(retriever(1))
    first, _ = found.nearest(HISTORY, LENGTHS, SIDE, DEPTH, NOTHING)
    rows, _ = found.nearest(HISTORY, LENGTHS, SIDE, DEPTH, list(first))
    assert (rows >= 0).all()
    assert not any(np.isin(r, f).any() for r, f in zip(rows, first, strict=True))


def test_best_items_come_first() -> None:
    _, scores = NearestItems(retriever(1)).nearest(HISTORY, LENGTHS, SIDE, DEPTH, NOTHING)
    assert (np.diff(scores.sum(axis=2), axis=1) <= 1e-5).all()


def test_candidate_sets_are_made_of_searched_items() -> None:
    log = walking_log()
    config = TowerConfig(dim=8, dropout=0.0)
    table = RNG.standard_normal((log.n_items, 8)).astype(np.float32)
    whole = Retriever([config], [build_tower(config, 1).eval()], [table], [], Blend((1.0,), ()), 1, True)
    examples = Examples.every(log)
    exact, searched = (
        retrieve(examples, scorer, depth=5, length=6, mask_seen=True) for scorer in (whole, NearestItems(whole))
    )
    np.testing.assert_array_equal(searched.rows, exact.rows)
    np.testing.assert_allclose(searched.target_channels, exact.target_channels, rtol=1e-4, atol=1e-5)
