"""Weights and probabilities come from held-out evidence."""

import numpy as np
import pytest

from shortlist.training.calibration import RankingScores, choose_weight, fit_platt, log_likelihood, ndcg
from shortlist.training.negatives import CandidateSet

REQUESTS, CANDIDATES = 400, 20


def candidates(seed: int = 0, requests: int = REQUESTS) -> CandidateSet:
    """Requests over the same items in the same order; any one is the target."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(CANDIDATES, dtype=np.int32), (requests, 1))
    return CandidateSet(
        np.full((requests, 1), -1), np.zeros(requests, np.int64), rows, np.zeros((*rows.shape, 2), np.float32),
        rng.integers(0, CANDIDATES, requests, dtype=np.int32), np.zeros((requests, 2), np.float32),
        np.zeros((requests, 1), np.float32), np.ones(requests, np.float32), np.arange(requests, dtype=np.int32),
    )  # fmt: skip


def noise(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=(REQUESTS, CANDIDATES)).astype(np.float32)


def test_a_deviation_that_knows_the_target_is_trusted() -> None:
    some = candidates()
    parts = RankingScores(noise(1, 0.5), noise(2, 0.5) + 2 * some.found())
    assert choose_weight([(some, parts)]) == 1.0


def test_a_deviation_that_is_noise_is_not_trusted() -> None:
    some = candidates()
    informed = noise(1, 0.5) + 2 * some.found().astype(np.float32)
    assert choose_weight([(some, RankingScores(informed, noise(2, 3.0)))]) == 0.0


def test_a_deviation_that_overshoots_is_shrunk() -> None:
    some = candidates()
    deviation = 2 * some.found() + noise(2, 2.0)
    assert 0 < choose_weight([(some, RankingScores(noise(1, 0.1), deviation.astype(np.float32)))]) < 1


def test_ndcg_counts_the_rank_of_the_target() -> None:
    some = candidates(requests=3)
    some.targets[:] = [0, 2, 15]
    scores = np.tile(-np.arange(CANDIDATES, dtype=np.float32), (3, 1))
    np.testing.assert_allclose(ndcg(some, scores), [1.0, 0.5, 0.0])


def test_a_target_that_was_not_retrieved_scores_nothing() -> None:
    some = candidates(requests=2)
    some.targets[:] = 99
    assert ndcg(some, np.zeros((2, CANDIDATES), np.float32)).sum() == 0
    assert len(log_likelihood(some, np.zeros((2, CANDIDATES), np.float32))) == 0


def test_equal_scores_give_the_likelihood_of_a_guess() -> None:
    some = candidates(requests=5)
    np.testing.assert_allclose(log_likelihood(some, np.zeros((5, CANDIDATES), np.float32)), -np.log(CANDIDATES))


def test_calibrated_probabilities_match_how_often_targets_are_hit() -> None:
    some = candidates()
    logits = noise(1) + 3 * some.found().astype(np.float32) + 7
    slope, intercept = fit_platt(logits, some)
    probabilities = 1 / (1 + np.exp(-(slope * logits + intercept)))
    assert slope > 0
    assert probabilities.sum() == pytest.approx(REQUESTS, rel=0.02)
    high = logits > np.quantile(logits, 0.9)
    assert probabilities[high].mean() == pytest.approx(some.found()[high].mean(), abs=0.05)


def test_calibration_never_turns_an_order_round() -> None:
    some = candidates()
    assert fit_platt(-3 * some.found().astype(np.float32) + noise(1), some)[0] > 0


def test_without_a_hit_calibration_does_nothing() -> None:
    some = candidates()
    some.targets[:] = 99
    assert fit_platt(noise(1), some) == (1.0, 0.0)
