from __future__ import annotations

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from tests.data.small import random_log


def make_log(users: list[int], rows: list[int], timestamps: list[int] | None = None) -> InteractionLog:
    return InteractionLog.from_arrays(
        np.array(users), np.array(rows), user_ids=["a", "b", "c"], item_ids=list("wxyz"), timestamps=timestamps
    )


def test_events_are_grouped_by_user_and_sorted_by_time() -> None:
    log = make_log([0, 2, 0, 0], [3, 1, 2, 0], [30, 5, 10, 20])
    assert log.history(0).tolist() == [2, 0, 3]
    assert log.history(1).tolist() == []
    assert log.history(2).tolist() == [1]


def test_ties_in_time_keep_the_order_of_the_file() -> None:
    log = make_log([0, 0, 0, 0], [3, 1, 2, 0], [7, 7, 5, 7])
    assert log.history(0).tolist() == [2, 3, 1, 0]


def test_without_timestamps_time_is_the_position() -> None:
    log = make_log([1, 0, 1, 1], [3, 1, 2, 0])
    assert not log.has_timestamps
    assert log.history(1).tolist() == [3, 2, 0]
    assert log.timestamps.tolist() == [0, 0, 1, 2]


def test_history_is_a_view() -> None:
    log = random_log()
    assert np.shares_memory(log.history(3), log.rows)


def test_repeat_rate_is_the_share_of_events_with_an_item_the_user_already_had() -> None:
    assert make_log([0, 0, 0, 1], [1, 1, 1, 1]).repeat_rate() == pytest.approx(0.5)


def test_popularity_counts_every_item() -> None:
    assert make_log([0, 0, 1], [1, 1, 3]).popularity().tolist() == [0, 2, 0, 1]


def test_keep_leaves_users_and_items_in_place() -> None:
    log = random_log()
    kept = log.keep(log.users() != 4)
    assert len(kept.history(4)) == 0
    assert kept.history(5).tolist() == log.history(5).tolist()
    assert kept.item_ids == log.item_ids


def test_an_empty_log_has_no_repeats_and_no_popularity() -> None:
    log = make_log([], [])
    assert log.repeat_rate() == 0
    assert log.popularity().tolist() == [0, 0, 0, 0]


def test_columns_of_different_length_are_refused() -> None:
    log = random_log()
    with pytest.raises(ValueError, match="columns of the log"):
        InteractionLog(
            log.user_ids, log.item_ids, log.offsets, log.rows, log.timestamps[1:], log.events, log.values, ["e"], True
        )


def test_context_columns_follow_their_events() -> None:
    log = InteractionLog.from_arrays(
        np.array([0, 0]),
        np.array([1, 0]),
        user_ids=["a"],
        item_ids=["x", "y"],
        timestamps=np.array([9, 3]),
        context={"device": np.array(["tv", "phone"], object)},
    )
    assert log.context["device"].tolist() == ["phone", "tv"]
