"""An evaluation from recommenders to JSON."""

import json

import numpy as np
import pytest

from shortlist.data.splits import Split
from shortlist.evaluation.baselines import ItemNeighbours, Popularity
from shortlist.evaluation.experiment import Experiment, compare


@pytest.fixture(scope="module")
def experiment(split: Split) -> Experiment:
    neighbours, popularity = ItemNeighbours.fit(split.train, True), Popularity.fit(split.train, True)
    content = np.random.default_rng(0).normal(size=(split.train.n_items, 3)).astype(np.float32)
    return compare([neighbours, popularity], split, content=content, parity={"int8": {"overlap": 0.99}})


def test_json_has_the_documented_keys(experiment: Experiment) -> None:
    expected = {"protocol", "models", "stages", "parity", "differences"}
    assert expected <= set(experiment.evaluation.to_json())


def test_every_model_reports_every_metric(experiment: Experiment) -> None:
    at_cutoffs = ("hr", "recall", "ndcg", "mrr", "coverage", "novelty", "serendipity", "diversity")
    expected = {f"{metric}@{k}" for metric in at_cutoffs for k in (10, 50)} | {"auc"}
    assert all(set(metrics) == expected for metrics in experiment.evaluation.models.values())


def test_json_survives_a_round_trip(experiment: Experiment) -> None:
    content = experiment.evaluation.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_the_first_model_is_compared_with_each_other(experiment: Experiment) -> None:
    difference = experiment.evaluation.to_json()["differences"]["item-knn - popularity"]["ndcg@10"]
    models = experiment.evaluation.models
    assert difference["mean"] == pytest.approx(models["item-knn"]["ndcg@10"] - models["popularity"]["ndcg@10"])
    assert 0 < difference["low"] < difference["mean"] < difference["high"]


def test_the_protocol_is_that_of_the_split(experiment: Experiment) -> None:
    assert experiment.evaluation.protocol == "leave-one-out"


def test_content_that_says_nothing_gives_no_diversity(split: Split) -> None:
    nothing = np.zeros((split.train.n_items, 1), np.float32)
    found = compare([Popularity.fit(split.train, True)], split, content=nothing)
    assert "diversity@10" not in found.evaluation.models["popularity"]
