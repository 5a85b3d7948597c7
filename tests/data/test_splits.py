from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.config import Protocol
from shortlist.data.log import InteractionLog
from shortlist.data.splits import COLD_POSITIONS, Examples, Split, make_split
from shortlist.errors import DataError
from tests.data.small import random_log

PROTOCOLS = get_args(Protocol)


@st.composite
def logs(draw: st.DrawFn) -> InteractionLog:
    """Logs of some size, often with equal times and repeated items."""
    seed, users, items = draw(st.integers(0, 10_000)), draw(st.integers(10, 30)), draw(st.integers(2, 12))
    span = draw(st.sampled_from([40, 1000, 10**7]))
    return random_log(users, items, draw(st.integers(200, 400)), seed, span=span)


def event_keys(split: Split) -> tuple[set[int], set[int], set[int]]:
    """Which events of the full log train, validate and test."""
    log = split.deploy_log
    lengths = split.train.lengths()
    trained = log.offsets[split.train.users()] + split.train.positions()
    assert (lengths <= log.lengths()).all()
    return set(trained.tolist()), set(split.validation.events().tolist()), set(split.test.events().tolist())


@given(logs(), st.sampled_from(PROTOCOLS), st.integers(0, 5))
def test_no_event_is_used_twice(log: InteractionLog, protocol: Protocol, seed: int) -> None:
    train, validation, test = event_keys(make_split(log, protocol, seed))
    assert not train & validation
    assert not train & test
    assert not validation & test


@given(logs(), st.sampled_from(PROTOCOLS), st.integers(0, 5))
def test_training_rows_are_a_prefix_of_each_user_s_sequence(log: InteractionLog, protocol: Protocol, seed: int) -> None:
    split = make_split(log, protocol, seed)
    for user in range(log.n_users):
        trained = split.train.history(user)
        assert trained.tolist() == log.history(user)[: len(trained)].tolist()


@given(logs())
def test_rolling_trains_on_nothing_as_late_as_what_it_evaluates(log: InteractionLog) -> None:
    split = make_split(log, "rolling")
    latest = split.train.timestamps.max()
    earliest_validation = log.timestamps[split.validation.events()].min()
    latest_validation = log.timestamps[split.validation.events()].max()
    assert latest < earliest_validation
    assert latest_validation < log.timestamps[split.test.events()].min()


@given(logs())
def test_leave_one_out_trains_on_nothing_of_a_user_later_than_what_it_evaluates(log: InteractionLog) -> None:
    split = make_split(log, "leave-one-out")
    for examples in (split.validation, split.test):
        for user, event in zip(examples.users, examples.events(), strict=True):
            trained = split.train.timestamps[split.train.offsets[user] : split.train.offsets[user + 1]]
            assert trained.max() <= log.timestamps[event]


@given(logs(), st.integers(0, 5))
def test_cold_users_never_train(log: InteractionLog, seed: int) -> None:
    split = make_split(log, "cold-users", seed)
    evaluated = np.union1d(split.validation.users, split.test.users)
    assert split.train.lengths()[evaluated].sum() == 0
    assert not np.intersect1d(split.validation.users, split.test.users).size


@given(logs(), st.sampled_from(PROTOCOLS), st.integers(1, 8))
def test_histories_are_the_latest_events_before_the_target(
    log: InteractionLog, protocol: Protocol, length: int
) -> None:
    examples = make_split(log, protocol).test
    rows, lengths = examples.histories(0, len(examples), length)
    assert rows.shape == (len(examples), length)
    for e, (user, position) in enumerate(zip(examples.users, examples.positions, strict=True)):
        expected = log.history(user)[:position][-length:].tolist()
        assert rows[e].tolist() == expected + [-1] * (length - len(expected))
        assert lengths[e] == len(expected)


def test_leave_one_out_tests_the_last_event_and_validates_the_one_before() -> None:
    log = random_log()
    split = make_split(log, "leave-one-out")
    user = int(split.test.users[3])
    assert split.test.targets()[3] == log.history(user)[-1]
    assert split.validation.targets()[3] == log.history(user)[-2]
    assert split.train.history(user).tolist() == log.history(user)[:-2].tolist()


def test_the_history_of_a_test_event_includes_the_validation_item() -> None:
    log = random_log()
    split = make_split(log, "leave-one-out")
    rows, lengths = split.test.histories(0, 1, 50)
    assert rows[0, lengths[0] - 1] == split.validation.targets()[0]


def test_users_with_fewer_than_three_events_only_train() -> None:
    log = InteractionLog.from_arrays(
        np.array([0, 0, 1, 1, 1]), np.arange(5), user_ids=["a", "b"], item_ids=list("vwxyz")
    )
    split = make_split(log, "leave-one-out")
    assert split.test.users.tolist() == [1]
    assert split.train.history(0).tolist() == [0, 1]


def test_rolling_tests_the_given_share_of_events() -> None:
    log = random_log(events=1000, span=10**8)
    split = make_split(log, "rolling", test_share=0.3)
    assert len(split.test) == 300
    assert len(split.validation) == 70


def test_rolling_histories_move_on_with_the_user() -> None:
    split = make_split(random_log(), "rolling")
    user = split.test.users[0]
    positions = split.test.positions[split.test.users == user]
    assert positions.tolist() == list(range(positions[0], positions[0] + len(positions)))


def test_cold_users_are_asked_for_their_first_and_last_events() -> None:
    log = random_log(users=40, events=900)
    split = make_split(log, "cold-users", cold_share=0.25)
    assert len(np.unique(split.test.users)) == 10
    user = split.test.users[0]
    last = log.lengths()[user] - 1
    expected = sorted({position for position in COLD_POSITIONS if position <= last} | {last})
    assert split.test.positions[split.test.users == user].tolist() == expected


def test_the_seed_decides_who_is_cold() -> None:
    log = random_log()
    first, again, other = (make_split(log, "cold-users", seed) for seed in (1, 1, 2))
    assert first.test.users.tolist() == again.test.users.tolist()
    assert first.test.users.tolist() != other.test.users.tolist()


def test_rolling_without_timestamps_is_refused() -> None:
    with pytest.raises(DataError, match="needs timestamps"):
        make_split(random_log(timestamps=False), "rolling")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_items_in_another_order_are_the_same_events(protocol: Protocol) -> None:
    split, order = make_split(random_log(20, 12, 300), protocol), np.random.default_rng(0).permutation(12)
    other = split.reordered(order)
    assert [_names(log) for log in _logs(other)] == [_names(log) for log in _logs(split)]
    assert other.train.item_ids == [split.train.item_ids[row] for row in order]


def _logs(split: Split) -> list[InteractionLog]:
    return [split.train, split.validation.log, split.test.log]


def _names(log: InteractionLog) -> list[str]:
    return [log.item_ids[row] for row in log.rows]


def test_a_log_too_small_to_split_is_refused() -> None:
    with pytest.raises(DataError, match="each needs at least one"):
        make_split(random_log(users=1, events=2), "leave-one-out")


def test_equal_times_leave_nothing_to_train_on_and_are_refused() -> None:
    with pytest.raises(DataError, match="0 train"):
        make_split(random_log(span=1), "rolling")


def test_every_lists_the_latest_events_of_each_user() -> None:
    log = random_log()
    examples = Examples.every(log, latest=2)
    counts = np.bincount(examples.users, minlength=log.n_users)
    assert counts.tolist() == np.minimum(log.lengths() - 1, 2).clip(0).tolist()


def test_every_from_zero_lists_the_whole_log() -> None:
    log = random_log()
    assert Examples.every(log, first=0).targets().tolist() == log.rows.tolist()


def test_contexts_are_hour_and_weekday_in_utc() -> None:
    log = InteractionLog.from_arrays(
        np.array([0, 0]),
        np.array([0, 0]),
        user_ids=["a"],
        item_ids=["x"],
        timestamps=np.array([0, 1_700_000_000]),  # Thursday 1 January 1970 00:00; Tuesday 14 November 2023 22:13
    )
    context = Examples.every(log, first=0).contexts(0, 2)
    assert context["hour"].tolist() == [0, 22]
    assert context["weekday"].tolist() == [3, 1]


def test_data_without_time_have_no_context() -> None:
    assert Examples.every(random_log(timestamps=False)).contexts(0, 5) == {}


def test_a_sample_is_reproducible_and_in_order() -> None:
    examples = Examples.every(random_log())
    events = examples.sample(20, seed=3).events()
    assert len(events) == 20
    assert (np.diff(events) > 0).all()
    assert events.tolist() == examples.sample(20, seed=3).events().tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_million_interactions_split_in_seconds(protocol: Protocol) -> None:
    log = random_log(users=40_000, items=60_000, events=1_000_000)
    started = time.process_time()  # what others do on the machine does not count
    make_split(log, protocol).test.histories(0, 512, 200)
    assert time.process_time() - started < 10
