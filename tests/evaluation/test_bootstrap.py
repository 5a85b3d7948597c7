"""Intervals: do they cover, are they paired, and do they respect clusters."""

import numpy as np
import pytest

from shortlist.evaluation.bootstrap import paired_difference, paired_differences, resampled_means


def test_intervals_cover_the_true_difference_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        ours, theirs = rng.normal(0.3, 1, 100), rng.normal(0, 1, 100)
        interval = paired_difference(ours, theirs, resamples=300, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_constant_difference_has_no_uncertainty() -> None:
    theirs = np.random.default_rng(0).normal(size=50)
    interval = paired_difference(theirs + 0.25, theirs)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_same_seed_gives_the_same_interval() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 50))
    assert paired_difference(ours, theirs, seed=3) == paired_difference(ours, theirs, seed=3)


def test_examples_of_one_user_count_as_one_draw() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=40), 25)
    users = np.repeat(np.arange(40, dtype=np.int32), 25)
    apart, together = paired_difference(values, 0 * values), paired_difference(values, 0 * values, users)
    assert together.high - together.low > 4 * (apart.high - apart.low)


def test_the_spread_of_resampled_means_is_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(400, 1))
    means = resampled_means(values, np.arange(400, dtype=np.int32), seed=0)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.06)


def test_users_with_more_examples_weigh_more_in_the_mean() -> None:
    values, users = np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([7, 7, 7, 9], np.int32)
    means = np.unique(resampled_means(values, users, seed=0).round(6))
    assert means.tolist() == [0, 0.75, 1]


def test_every_shared_metric_of_every_other_model_is_compared() -> None:
    ours = {"ndcg@10": np.ones(4), "auc": np.ones(4)}
    others = {"ease": {"ndcg@10": np.zeros(4)}, "als": {"ndcg@10": np.ones(4), "auc": np.zeros(4)}}
    found = paired_differences(ours, others, np.arange(4, dtype=np.int32))
    assert {other: {metric: i.mean for metric, i in metrics.items()} for other, metrics in found.items()} == {
        "ease": {"ndcg@10": 1},
        "als": {"ndcg@10": 0, "auc": 1},
    }


def test_nothing_to_compare_is_no_difference() -> None:
    assert paired_differences({"auc": np.ones(2)}, {}, np.arange(2, dtype=np.int32)) == {}


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        resampled_means(np.zeros((0, 1)), np.zeros(0, np.int32), seed=0)
