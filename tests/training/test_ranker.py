"""The ranker learns what retrieval does not know, and stays with retrieval where there is nothing to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shortlist.data.splits import make_split
from shortlist.models.ranker import Ranker
from shortlist.training.calibration import ndcg
from shortlist.training.negatives import CandidateSet, out_of_fold, retrieve
from shortlist.training.ranker import RankerReport, score, train_ranker
from tests.ranking import ITEMS, FixedRetriever, noise_features, walking_log

SETTINGS = {"dim": 8, "hidden": 16, "hard_negatives": 20, "epochs": 12, "learning_rate": 0.02, "show_progress": False}


def candidate_sets(seed: int = 0) -> tuple[CandidateSet, CandidateSet, CandidateSet]:
    split, retriever = make_split(walking_log(users=150, seed=seed), "leave-one-out"), FixedRetriever()
    training = out_of_fold(
        split.train, lambda log: retriever, folds=2, positions=8, seed=0, depth=30, length=5, mask_seen=True
    )
    validation, test = (
        retrieve(part, retriever, depth=30, length=5, mask_seen=True) for part in (split.validation, split.test)
    )
    return training, validation, test


def train(training: CandidateSet, validation: CandidateSet, **changes) -> tuple[Ranker, RankerReport]:
    return train_ranker(training, validation, item_features=noise_features(), **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def trained() -> tuple[Ranker, RankerReport]:
    return train(*candidate_sets()[:2])


def test_it_learns_what_the_history_tells_about_the_next_item(trained: tuple[Ranker, RankerReport]) -> None:
    test = candidate_sets()[2]
    before, after = ndcg(test, test.channels.sum(axis=-1)), ndcg(test, score(trained[0], test, noise_features()))
    assert after.mean() > before.mean() + 0.2


def test_the_report_tells_the_gain(trained: tuple[Ranker, RankerReport]) -> None:
    assert trained[1].weight > 0
    assert trained[1].ndcg > trained[1].retrieval_ndcg + 0.2


def test_random_targets_leave_the_order_of_retrieval() -> None:
    training, validation, test = candidate_sets()
    rng = np.random.default_rng(1)

    def shuffled(part: CandidateSet) -> CandidateSet:
        place = np.minimum(rng.geometric(0.25, len(part)) - 1, 29)  # better ranked candidates are hit more often
        place = np.where(part.rows[np.arange(len(part)), place] >= 0, place, 0)
        at = np.arange(len(part))
        return replace(part, targets=part.rows[at, place], target_channels=part.channels[at, place])

    ranker, report = train(shuffled(training), shuffled(validation))
    assert report.ndcg >= report.retrieval_ndcg - 0.02
    test = shuffled(test)
    change = ndcg(test, score(ranker, test, noise_features())) - ndcg(test, test.channels.sum(axis=-1))
    assert change.mean() > -0.02


def test_without_any_retrieved_target_the_order_is_that_of_retrieval() -> None:
    training, validation, test = candidate_sets()
    nothing = replace(training, targets=np.full_like(training.targets, -2))
    ranker, report = train(nothing, replace(validation, targets=np.full_like(validation.targets, -2)))
    np.testing.assert_array_equal(
        score(ranker, test, noise_features()).argsort(axis=1, kind="stable"),
        np.where(test.rows >= 0, test.channels.sum(axis=-1), -np.inf).argsort(axis=1, kind="stable"),
    )
    assert report.weight == 0


def test_a_seed_gives_the_same_ranker_again(trained: tuple[Ranker, RankerReport]) -> None:
    again, _ = train(*candidate_sets()[:2])
    for name, value in trained[0].state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)


def test_examples_of_weight_zero_teach_nothing() -> None:
    training, validation, _ = candidate_sets()
    liars = replace(training, targets=training.rows[:, 0], target_channels=training.channels[:, 0],
                    weights=np.zeros(len(training), np.float32), users=training.users + 1000)  # fmt: skip
    poisoned = CandidateSet.concatenate([training, liars])
    assert train(poisoned, validation)[1].ndcg > train(training, validation)[1].retrieval_ndcg + 0.2


def test_items_without_a_single_event_get_their_content_vector() -> None:
    training, validation, _ = candidate_sets()
    content = np.zeros((ITEMS + 2, 3), np.float32)
    content[ITEMS] = [1.0, 0.0, 0.0]
    content[:ITEMS, 1] = 1.0
    features = np.concatenate([noise_features(), np.zeros((2, 2), np.float32)])
    ranker, _ = train_ranker(training, validation, item_features=features, content=content, **SETTINGS)
    unseen_with_content, unseen_without = ranker.item_embeddings()[ITEMS:]
    assert np.abs(unseen_with_content).max() > 0
    np.testing.assert_array_equal(unseen_without, 0)
