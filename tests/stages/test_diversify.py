"""Slates keep the ranker's order without diversity, and exploration reports honest probabilities."""

from collections import Counter

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.stages.diversify import Diversify, explore
from shortlist.types import Candidates
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def diversify(tmp_path_factory: pytest.TempPathFactory) -> Diversify:
    bundle = Bundle.open(make_bundle(tmp_path_factory.mktemp("diversify") / "bundle"))
    return Diversify(bundle, Catalog.load(bundle))


def _ranked(batch: int, count: int) -> Candidates:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(300, count, replace=False) for _ in range(batch)]).astype(np.int32)
    scores = -np.sort(-rng.random((batch, count)).astype(np.float32), axis=1)
    return Candidates(rows, scores, np.zeros((batch, count, 2), np.float32))


def test_no_diversity_keeps_the_order(diversify: Diversify) -> None:
    picks = diversify(_ranked(3, 50), "rank", np.zeros(3, np.float32), 10)
    assert picks.tolist() == [list(range(10))] * 3


def test_more_diversity_means_less_similar_items(diversify: Diversify) -> None:
    ranked = _ranked(8, 100)

    def similarity(diversity: float) -> float:
        picks = diversify(ranked, "rank", np.full(8, diversity, np.float32), 10)
        vectors = diversify.catalog.gather(np.take_along_axis(ranked.rows, picks, axis=1), "diversity")
        return float((vectors @ vectors.transpose(0, 2, 1)).mean())

    assert similarity(0.9) < similarity(0.3) < similarity(0.0)


def test_padding_is_never_picked(diversify: Diversify) -> None:
    rows = np.array([[5, 6, -1, -1]], np.int32)
    scores = np.array([[0.9, 0.8, -np.inf, -np.inf]], np.float32)
    candidates = Candidates(rows, scores, np.zeros((1, 4, 2), np.float32))
    assert diversify(candidates, "rank", np.array([0.5], np.float32), 3).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("stage", ["retrieve", "filter", "rank", "popularity"])
def test_a_score_that_is_no_number_is_the_least_relevant(diversify: Diversify, stage: str) -> None:
    rows = np.array([[5, 6, 7]], np.int32)
    scores = np.array([[np.nan, -np.inf, 0.1]], np.float32)
    candidates = Candidates(rows, scores, np.zeros((1, 3, 2), np.float32))
    assert diversify(candidates, stage, np.array([0.0], np.float32), 3).tolist() == [[2, 0, 1]]


def test_exploration_shows_each_item_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    shown: Counter[int] = Counter()
    claimed: dict[int, float] = {}
    for _ in range(20_000):
        positions, propensities = explore(np.array([0, 1], np.int32), 5, 0.3, rng)
        shown[int(positions[0])] += 1
        claimed[int(positions[0])] = float(propensities[0])
        assert len(set(positions.tolist())) == 2
    assert claimed[0] == pytest.approx(0.76)
    assert claimed[4] == pytest.approx(0.06)
    for position, propensity in claimed.items():
        assert shown[position] / 20_000 == pytest.approx(propensity, abs=0.012)
