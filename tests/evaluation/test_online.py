"""The evaluation of vectors that events move: on what happened after training, by what came before alone."""

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Split, make_split
from shortlist.evaluation.online import GRID, Recipe, Stream, after_training, table
from shortlist.profiles.online import BOUND, LEARNING_RATE, NEGATIVES
from tests.factories import make_bundle

ITEMS = 300


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    log = InteractionLog.from_arrays(
        rng.integers(0, 20, 1000),
        rng.integers(0, ITEMS, 1000),
        user_ids=[str(i) for i in range(20)],
        item_ids=[str(i) for i in range(ITEMS)],
        timestamps=rng.permutation(1000),
    )
    return make_split(log, "rolling")


@pytest.fixture(scope="module")
def stream(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Stream:
    cascade = Cascade.load(make_bundle(tmp_path_factory.mktemp("online") / "bundle", items=ITEMS))
    events, _ = after_training(split)
    towers = np.random.default_rng(1).normal(size=(len(events), 16)).astype(np.float32)
    return Stream(events, towers, np.array(cascade.retrieve.vectors), mask_seen=True)


def test_every_event_that_training_did_not_see_is_replayed_in_order(split: Split) -> None:
    events, is_test = after_training(split)
    assert len(events) == len(split.validation) + len(split.test)
    assert is_test.sum() == len(split.test)
    same_user = events.users[1:] == events.users[:-1]
    assert (np.diff(events.positions)[same_user] == 1).all()


def test_a_drift_follows_from_what_came_before_alone(stream: Stream) -> None:
    recipe = Recipe(0.1, 4, 0.5)
    whole, _ = stream.drift(recipe, seed=0)
    cut = 2 * len(stream.events) // 3
    part = Stream(stream.events.subset(slice(0, cut)), stream.towers[:cut], stream.items, stream.mask_seen)
    earlier, _ = part.drift(recipe, seed=0)
    assert whole[:cut] == pytest.approx(earlier)


def test_negatives_are_neither_targets_nor_seen(stream: Stream) -> None:
    drawn = stream._negatives(64, seed=0)
    events = stream.events
    for row, target, user, position in zip(drawn, events.targets(), events.users, events.positions, strict=True):
        assert not np.isin(row[row >= 0], [*events.log.history(user)[:position], target]).any()


def test_what_is_served_is_one_of_the_recipes_that_were_compared() -> None:
    assert Recipe(LEARNING_RATE, NEGATIVES, BOUND) in GRID


def test_the_verdict_is_shown() -> None:
    difference = {"mean": 0.002, "low": 0.001, "high": 0.003}
    report = {
        "chosen": {"learning_rate": 0.03, "negatives": 16, "bound": 0.3},
        "us_an_event": 2.0,
        "wins": True,
        "examples": {"test": 100},
        "test": {"cascade": {"without": 0.1, "difference": difference}},
    }
    assert table(report).row_count == 1
