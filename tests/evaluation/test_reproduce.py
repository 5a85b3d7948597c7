"""The table of README, from stored per-example values."""

from pathlib import Path

import numpy as np
import pytest

from shortlist.data.splits import Split
from shortlist.evaluation.baselines import ItemNeighbours, Popularity
from shortlist.evaluation.experiment import compare
from shortlist.evaluation.reproduce import Values, load_values, markdown, pooled_differences, save_values
from shortlist.types import Int32

USERS = np.arange(4, dtype=np.int32)


def values(cascade: list[float], ease: list[float]) -> tuple[Values, Int32]:
    models = {"cascade": np.array(cascade), "ease": np.array(ease)}
    return {name: {"hr@10": value, "ndcg@10": value} for name, value in models.items()}, USERS


SEEDS = [values([1, 1, 0, 0], [0, 0, 0, 0]), values([1, 1, 1, 0], [0, 0, 0, 0])]


def test_stored_values_come_back(split: Split, tmp_path: Path) -> None:
    experiment = compare([ItemNeighbours.fit(split.train, True), Popularity.fit(split.train, True)], split)
    save_values(experiment, tmp_path / "values.npz")
    stored, users = load_values(tmp_path / "values.npz")
    assert list(stored) == ["item-knn", "popularity"]
    assert stored["item-knn"]["ndcg@10"].tolist() == experiment.results[0].per_example["ndcg@10"].tolist()
    assert users.tolist() == split.test.users.tolist()


def test_means_are_over_seeds_with_their_deviation() -> None:
    assert "| cascade | 0.6250 (0.1250) | 0.6250 (0.1250) |" in markdown({"rolling": SEEDS})


def test_each_protocol_is_a_pair_of_columns() -> None:
    header = markdown({"leave-one-out": SEEDS, "rolling": SEEDS}).splitlines()[2]
    assert header == "| model | leave-one-out HR@10 | leave-one-out NDCG@10 | rolling HR@10 | rolling NDCG@10 |"


def test_differences_pool_the_seeds_and_resample_users() -> None:
    interval = pooled_differences(SEEDS, "ndcg@10")["ease"]
    assert interval.mean == pytest.approx(0.625)
    # four users of means 1, 1, .5, 0: P(mean ≤ .125) = 5 / 256 and P(mean = 1) = 1 / 16 enclose the 2.5 % tails
    assert (interval.low, interval.high) == (0.25, 1.0)


def test_the_first_model_is_not_compared_with_itself() -> None:
    differences = markdown({"rolling": SEEDS}).split("cascade −")[1]
    assert "| cascade |" not in differences
