"""Hard negatives are the retriever's best unseen items, scored by models that never saw the user."""

from dataclasses import replace

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.errors import DataError
from shortlist.training.negatives import draw_hard_negatives, example_weights, match_scale, out_of_fold, retrieve
from tests.ranking import ITEMS, FixedRetriever, walking_log


def _retrieve(retriever: FixedRetriever, depth: int = 10, mask_seen: bool = True):
    return retrieve(Examples.every(walking_log()), retriever, depth=depth, length=5, mask_seen=mask_seen)


def test_candidates_are_the_best_items_in_order() -> None:
    retriever = FixedRetriever(signal=2.0)
    found = _retrieve(retriever, mask_seen=False)
    fused = sum(retriever.scores(found.history, found.lengths, found.side))
    expected = -np.sort(-fused, axis=1)[:, :10]
    np.testing.assert_allclose(np.take_along_axis(fused, found.rows.astype(np.int64), 1), expected)


def test_channels_are_the_raw_scores_of_each_candidate_and_of_the_target() -> None:
    retriever = FixedRetriever(signal=2.0)
    found = _retrieve(retriever)
    tower, linear = retriever.scores(found.history, found.lengths, found.side)
    everyone = np.arange(len(found))
    np.testing.assert_array_equal(found.channels[:, 3, 0], tower[everyone, found.rows[:, 3]])
    np.testing.assert_array_equal(found.target_channels[:, 1], linear[everyone, found.targets])


def test_no_item_of_the_whole_history_is_a_candidate() -> None:
    log = walking_log()
    found = _retrieve(FixedRetriever(), depth=ITEMS)
    for e in range(len(found)):
        before = log.history(found.users[e])[: np.flatnonzero(log.history(found.users[e]) == found.targets[e])[0]]
        assert not set(found.rows[e].tolist()) & set(before.tolist())


def test_a_short_supply_of_unseen_items_is_padded() -> None:
    found = _retrieve(FixedRetriever(), depth=ITEMS)
    np.testing.assert_array_equal((found.rows < 0).any(axis=1), np.ones(len(found), bool))
    assert (np.diff((found.rows < 0).astype(int), axis=1) >= 0).all()


def test_every_fold_is_scored_by_a_retriever_fitted_without_its_users() -> None:
    log, fitted_on = walking_log(), []

    class Spy(FixedRetriever):
        def __init__(self, training: InteractionLog) -> None:
            super().__init__()
            self.users = set(training.users().tolist())
            fitted_on.append(self.users)

        def scores(self, rows, lengths, side):
            scored.append((self.users, side[:, 0].astype(int).tolist()))
            return super().scores(rows, lengths, side)

    scored: list[tuple[set[int], list[int]]] = []
    found = out_of_fold(
        log, Spy, folds=3, positions=4, seed=0, depth=10, length=5, mask_seen=True,
        side=lambda examples: examples.users[:, None].astype(np.float32),
    )  # fmt: skip
    assert len(fitted_on) == 3
    assert all(users.isdisjoint(asked) for users, asked in scored)
    assert sorted(found.users.tolist()) == sorted(list(range(log.n_users)) * 4)


def test_events_of_weight_zero_are_no_examples() -> None:
    log = replace(walking_log(), event_names=["click", "buy"], events=np.arange(80 * 12, dtype=np.int16) % 2)
    found = out_of_fold(
        log, lambda log: FixedRetriever(), folds=2, positions=4, seed=0, depth=10, length=5, mask_seen=True,
        event_weights={"click": 0.0},
    )  # fmt: skip
    assert len(found) == 2 * log.n_users  # every second of the four


def test_a_log_without_any_example_is_refused() -> None:
    with pytest.raises(DataError, match="weighs more than 0"):
        out_of_fold(
            walking_log(), lambda log: FixedRetriever(), folds=2, positions=4, seed=0, depth=10, length=5,
            mask_seen=True, event_weights={"interaction": 0.0},
        )  # fmt: skip


def test_no_more_examples_than_the_limit() -> None:
    found = out_of_fold(
        walking_log(), lambda log: FixedRetriever(), folds=2, positions=4, seed=0, depth=10, length=5, mask_seen=True,
        limit=50,
    )  # fmt: skip
    assert len(found) == 50


def test_matched_scores_have_the_moments_of_the_reference() -> None:
    reference = _retrieve(FixedRetriever(seed=1, signal=3.0))
    matched = match_scale(_retrieve(FixedRetriever(signal=1.0)), reference)
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(
            moment(matched.channels, axis=(0, 1)), moment(reference.channels, axis=(0, 1)), rtol=1e-3
        )


def test_recent_histories_are_their_own_ends() -> None:
    found = _retrieve(FixedRetriever())
    recent = found.recent(3)
    for e in range(len(found)):
        whole, kept = found.history[e, : found.lengths[e]], recent.history[e, : recent.lengths[e]]
        np.testing.assert_array_equal(kept, whole[-3:])
        assert (recent.history[e, recent.lengths[e] :] == -1).all()


def test_negatives_are_distinct_places_of_each_request() -> None:
    found = _retrieve(FixedRetriever())
    places = draw_hard_negatives(found, 6, np.random.default_rng(0))
    assert places.shape == (len(found), 6)
    assert all(len(set(row.tolist())) == 6 for row in places)


def test_better_rated_events_weigh_more() -> None:
    examples = Examples.every(walking_log())
    weights, values = example_weights(examples, {}), examples.log.values[examples.events()]
    means = [weights[values == value].mean() for value in range(1, 6)]
    assert means == sorted(means)
    assert weights.mean() == pytest.approx(1.0, abs=1e-3)


def test_event_types_scale_the_weights() -> None:
    examples = Examples.every(walking_log())
    doubled = example_weights(examples, {"interaction": 2.0})
    np.testing.assert_allclose(doubled, 2 * example_weights(examples, {}))


def test_a_reference_without_candidates_leaves_finite_scores() -> None:
    found = _retrieve(FixedRetriever())
    nothing = replace(found, rows=np.full_like(found.rows, -1))
    assert np.isfinite(match_scale(found, nothing).channels).all()
    assert np.isfinite(match_scale(nothing, found).channels).all()
