"""Training of the retriever: members are blended or dropped, resumed alike, and refitted without the users held out."""

from pathlib import Path

import numpy as np
import pytest

from shortlist.config import LinearConfig, RetrieverConfig, TowerConfig
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split, make_split
from shortlist.errors import ConfigError
from shortlist.models.retriever import Retriever
from shortlist.training.retriever import refit, train_retriever
from shortlist.types import Float32

USERS, ITEMS, LENGTH = 80, 40, 12
CONFIG = RetrieverConfig(
    towers=(TowerConfig(dim=8, history=12, epochs=4, learning_rate=2e-2, batch_tokens=200, id_dropout=0.0),),
    linear=(LinearConfig(regularization=5.0, decay=0.7, kernel=0.5), LinearConfig(kind="directed_ridge", decay=0.5)),
)


@pytest.fixture(scope="module")
def split() -> Split:
    """People walk around a ring of items, so that the next item is one of two."""
    rng = np.random.default_rng(0)
    walks = (rng.integers(ITEMS, size=(USERS, 1)) + rng.integers(1, 3, size=(USERS, LENGTH)).cumsum(1)) % ITEMS
    log = InteractionLog.from_arrays(
        np.repeat(np.arange(USERS), LENGTH),
        walks.ravel(),
        user_ids=[f"u{u}" for u in range(USERS)],
        item_ids=[f"i{i}" for i in range(ITEMS)],
    )
    return make_split(log, "leave-one-out")


def side(examples: Examples) -> Float32:
    """One column that says nothing."""
    return np.ones((len(examples), 1), np.float32)


def train(split: Split, config: RetrieverConfig = CONFIG, **options: object) -> Retriever:
    return train_retriever(config, split.train, split.validation, side=side, show_progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(split: Split) -> Retriever:
    return train(split)


def hit_rate(retriever: Retriever, examples: Examples, k: int = 5) -> float:
    rows, lengths = examples.histories(0, len(examples), 12)
    fused = sum(retriever.scores(rows, lengths, side(examples)))
    best = np.argsort(-np.asarray(fused), axis=1)[:, :k]
    return float((best == examples.targets()[:, None]).any(axis=1).mean())


def test_it_learns_what_comes_next(split: Split, trained: Retriever) -> None:
    assert hit_rate(trained, split.test) > 0.6  # by chance 0.125


def test_the_report_says_how_it_went(trained: Retriever) -> None:
    assert trained.report["ndcg"] >= trained.report["towers"][0]["ndcg"] - 0.05
    assert trained.report["blend"] == {"towers": trained.blend.towers, "channels": trained.blend.channels}


def test_only_members_with_a_weight_are_kept(trained: Retriever) -> None:
    assert len(trained.channels) == sum(weight > 0 for weight in trained.blend.channels)
    assert len(trained.towers) == sum(weight > 0 for weight in trained.blend.towers) == 1


def test_the_same_seed_gives_the_same_retriever(split: Split, trained: Retriever) -> None:
    np.testing.assert_array_equal(train(split).item_vectors(), trained.item_vectors())


def test_a_finished_checkpoint_is_not_trained_again(split: Split, trained: Retriever, tmp_path: Path) -> None:
    first, again = (train(split, checkpoint_dir=tmp_path) for _ in range(2))
    np.testing.assert_array_equal(first.item_vectors(), again.item_vectors())
    assert again.report["towers"][0]["seconds"] == first.report["towers"][0]["seconds"]


def test_repeats_decide_whether_histories_are_masked(split: Split, trained: Retriever) -> None:
    assert trained.mask_seen
    assert not train(split, CONFIG.model_copy(update={"mask_seen": False})).mask_seen


def test_a_refit_keeps_members_and_weights_but_not_what_held_out_users_taught(split: Split, trained: Retriever) -> None:
    held_out = split.train.keep(split.train.users() % 2 == 0)
    again = refit(CONFIG, trained, held_out, split.validation, side=side, show_progress=False)
    assert again.blend == trained.blend
    assert len(again.channels) == len(trained.channels)
    assert not np.array_equal(again.item_vectors(), trained.item_vectors())
    assert hit_rate(again, split.test) > 0.3


def test_a_retriever_needs_a_tower(split: Split) -> None:
    with pytest.raises(ConfigError, match=r"retriever\.towers is empty"):
        train(split, RetrieverConfig(towers=()))
