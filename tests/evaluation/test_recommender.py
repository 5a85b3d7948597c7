"""Masked ranking of the whole catalogue."""

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split
from shortlist.evaluation.recommender import (
    CatalogueScorer,
    history_matrix,
    history_pairs,
    lift,
    masks_seen,
    top_rows,
)
from shortlist.types import Float32


class Reversed(CatalogueScorer):
    """Prefers items of a high row to everyone's surprise."""

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        return np.tile(np.arange(examples.log.n_items, dtype=np.float32), (stop - start, 1))


class Silent(CatalogueScorer):
    """Knows nothing."""

    def score(self, examples: Examples, start: int, stop: int) -> Float32:
        return np.zeros((stop - start, examples.log.n_items), np.float32)


def test_top_rows_are_in_order_of_score() -> None:
    assert top_rows(np.array([[0.1, 0.9, 0.5]], np.float32), 2).tolist() == [[1, 2]]


def test_masked_items_are_padding_in_a_short_list() -> None:
    assert top_rows(np.array([[-np.inf, 1.0, -np.inf]], np.float32), 2).tolist() == [[1, -1]]


def test_a_catalogue_smaller_than_k_is_padded() -> None:
    assert top_rows(np.array([[0.0, 1.0]], np.float32), 3).tolist() == [[1, 0, -1]]


def test_histories_hold_the_events_before_the_target(split: Split) -> None:
    examples = split.test.subset(slice(5, 9))
    batch, rows, ages = history_pairs(examples, 1, 3)
    user, position = examples.users[1], examples.positions[1]
    assert rows[batch == 0].tolist() == examples.log.history(user)[:position].tolist()
    assert ages[batch == 0].tolist() == list(range(position))[::-1]


def test_an_item_fades_with_its_age(split: Split) -> None:
    weights = history_matrix(split.test, 0, 1, decay=0.5).toarray()[0]
    history = split.test.log.history(split.test.users[0])[: split.test.positions[0]]
    assert weights[history[-3:]].tolist() == [0.25, 0.5, 1.0]


def test_seen_items_never_come_back_where_they_are_masked(split: Split) -> None:
    rows = Reversed("reversed", split.train, mask_seen=True).top(split.test, 0, 20, 60)
    batch, seen, _ = history_pairs(split.test, 0, 20)
    assert not any(item in rows[b] for b, item in zip(batch, seen, strict=True))


def test_seen_items_may_come_back_where_repeats_are_a_habit(split: Split) -> None:
    rows = Reversed("reversed", split.train, mask_seen=False).top(split.test, 0, 20, 60)
    assert (rows >= 0).all()


def test_popularity_answers_where_a_model_knows_nothing(split: Split) -> None:
    rows = Silent("silent", split.train, mask_seen=False).top(split.test, 0, 1, 1)
    assert split.train.popularity()[rows[0, 0]] == split.train.popularity().max()


@pytest.mark.parametrize(("repeats", "masked"), [(0, True), (4, True), (20, False)])
def test_masking_follows_the_repeat_rate(repeats: int, masked: bool) -> None:
    rows = np.concatenate([np.arange(100 - repeats), np.zeros(repeats, int)])
    log = InteractionLog.from_arrays(np.zeros(100, int), rows, user_ids=["u"], item_ids=[str(i) for i in range(100)])
    assert masks_seen(log) is masked


def test_lifted_items_lead_in_their_own_order() -> None:
    scores = np.array([[5.0, 4.0, -np.inf, 1.0, 0.0]], np.float32)
    lifted = lift(scores, np.array([[3, 1, -1]], np.int32))
    assert top_rows(lifted, 4).tolist() == [[3, 1, 0, 4]]
