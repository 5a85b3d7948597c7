"""Windows predict every event once, and batches hold every window once within their bound."""

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.training.windows import cut_windows, gather_events, plan_batches


def log_of(lengths: list[int]) -> InteractionLog:
    users = np.repeat(np.arange(len(lengths)), lengths)
    ids = [str(i) for i in range(max(sum(lengths), 1))]
    rows = np.arange(sum(lengths))
    return InteractionLog.from_arrays(users, rows, user_ids=[str(u) for u in range(len(lengths))], item_ids=ids)


@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_every_event_is_predicted_exactly_once(size: int) -> None:
    log = log_of([0, 1, 2, 9, 0, 4, 13])
    windows = cut_windows(log, size)
    events, real = gather_events(windows, np.arange(len(windows.starts)))
    predicted = real.copy()
    predicted[:, 0] &= windows.first
    assert sorted(events[predicted]) == list(range(len(log)))


def test_a_window_stays_within_one_user() -> None:
    log = log_of([3, 5])
    windows = cut_windows(log, 4)
    events, real = gather_events(windows, np.arange(len(windows.starts)))
    for own, mask in zip(events, real, strict=True):
        assert len(set(log.users()[own[mask]])) == 1


def test_batches_hold_every_window_once_and_keep_to_their_bound() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 500)
    batches = plan_batches(lengths, 100, rng)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert max(len(b) * lengths[b].max() for b in batches) <= 100


def test_a_window_longer_than_the_bound_is_a_batch_of_its_own() -> None:
    assert [b.tolist() for b in plan_batches(np.array([70]), 50, np.random.default_rng(0))] == [[0]]
