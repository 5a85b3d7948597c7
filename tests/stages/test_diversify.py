"""Slates keep the ranker's order without diversity, caps hold, and exploration reports honest probabilities."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.config import CascadeConfig
from shortlist.stages.diversify import Diversify, explore
from shortlist.types import Candidates
from tests.factories import make_bundle


def _diversify(path: Path, **cascade: Any) -> Diversify:
    bundle = Bundle.open(make_bundle(path, **cascade))
    return Diversify(bundle, Catalog.load(bundle), CascadeConfig.model_validate(bundle.metadata["cascade"]))


@pytest.fixture(scope="module")
def diversify(tmp_path_factory: pytest.TempPathFactory) -> Diversify:
    return _diversify(tmp_path_factory.mktemp("diversify") / "bundle")


def _ranked(batch: int, count: int) -> Candidates:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(300, count, replace=False) for _ in range(batch)]).astype(np.int32)
    scores = -np.sort(-rng.random((batch, count)).astype(np.float32), axis=1)
    return Candidates(rows, scores, np.zeros((batch, count, 2), np.float32))


def test_no_diversity_keeps_the_order(diversify: Diversify) -> None:
    picks = diversify(_ranked(3, 50), "rank", np.zeros(3, np.float32), 10)
    assert picks.tolist() == [list(range(10))] * 3


def _cosines(diversify: Diversify, ranked: Candidates, diversity: float) -> np.ndarray:
    """Cosines [B, 10, 10] among the items of each slate."""
    picks = diversify(ranked, "rank", np.full(len(ranked.rows), diversity, np.float32), 10)
    vectors = diversify.items[np.take_along_axis(ranked.rows, picks, axis=1)].astype(np.float32)
    return vectors @ vectors.transpose(0, 2, 1)


def test_more_diversity_means_less_similar_items(diversify: Diversify) -> None:
    means = [_cosines(diversify, _ranked(8, 100), diversity).mean() for diversity in (0.9, 0.3, 0.0)]
    assert means == sorted(means)


def test_more_diversity_means_a_larger_determinant(tmp_path: Path) -> None:
    dpp = _diversify(tmp_path / "bundle", diversifier="dpp")
    volumes = [np.linalg.slogdet(_cosines(dpp, _ranked(8, 100), d))[1].mean() for d in (0.0, 0.3, 0.9)]
    assert volumes == sorted(volumes)


def test_the_two_diversifiers_differ(tmp_path: Path) -> None:
    ranked, half = _ranked(8, 100), np.full(8, 0.5, np.float32)
    mmr, dpp = (_diversify(tmp_path / d, diversifier=d)(ranked, "rank", half, 10) for d in ("mmr", "dpp"))
    assert not np.array_equal(mmr, dpp)


@pytest.mark.parametrize("diversifier", ["mmr", "dpp"])
def test_a_cap_on_groups_is_kept_even_if_slates_get_shorter(diversifier: str, tmp_path: Path) -> None:
    diversify = _diversify(tmp_path / "bundle", diversifier=diversifier, group_by="maker", max_per_group=2)
    assert diversify.groups is not None
    ranked = _ranked(4, 60)
    ranked.rows[3] = np.arange(0, 300, 5)  # of groups 0, 5, … 25 of 30 only
    picks = diversify(ranked, "rank", np.full(4, 0.3, np.float32), 20)
    assert (picks >= 0).sum(axis=1).tolist() == [20, 20, 20, 12]
    for rows, chosen in zip(ranked.rows, picks, strict=True):
        assert np.bincount(diversify.groups[rows[chosen[chosen >= 0]]]).max() == 2


def test_of_very_many_candidates_the_first_are_looked_at(diversify: Diversify) -> None:
    rows = np.arange(2000, dtype=np.int32)[None] % 300
    scores = np.linspace(0, 1, 2000, dtype=np.float32)[None]
    candidates = Candidates(rows, scores, np.zeros((1, 2000, 2), np.float32))
    assert diversify(candidates, "retrieve", np.zeros(1, np.float32), 2).tolist() == [[1023, 1022]]


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
