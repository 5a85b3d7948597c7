"""The item-item channels: closed forms against their definitions, sparse against dense, scoring by recency."""

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.models.linear import LinearChannel, directed_ridge, ease

N = 12


def make_log(sequences: list[list[int]]) -> InteractionLog:
    users = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    rows = np.array([row for sequence in sequences for row in sequence])
    ids = [[f"{kind}{i}" for i in range(count)] for kind, count in (("u", len(sequences)), ("i", N))]
    return InteractionLog.from_arrays(users, rows, user_ids=ids[0], item_ids=ids[1])


@pytest.fixture
def log() -> InteractionLog:
    rng = np.random.default_rng(0)
    return make_log([rng.permutation(N)[: rng.integers(2, 9)].tolist() for _ in range(40)])


def dense(channel: LinearChannel) -> np.ndarray:
    return channel.matrix().toarray()


def test_ease_is_the_ridge_of_each_item_on_the_others(log: InteractionLog) -> None:
    users = np.zeros((log.n_users, N))
    users[log.users(), log.rows] = 1
    weights = dense(ease(log, 5.0, 0.9, N))
    for item in range(N):
        others = np.delete(np.arange(N), item)
        x = users[:, others]
        expected = np.linalg.solve(x.T @ x + 5.0 * np.eye(N - 1), x.T @ users[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-4)
        assert weights[item, item] == 0


def test_with_a_kernel_only_near_neighbours_in_time_go_together() -> None:
    log = make_log([[0, 1, 2, 3, 4, 5, 6, 7]] * 20)
    weights = dense(ease(log, 1.0, 0.9, N, kernel=0.5))
    assert weights[0, 1] > 10 * abs(weights[0, 7])


@pytest.mark.parametrize("kernel", [1.0, 0.7])
def test_solving_target_by_target_gives_the_same_ease(log: InteractionLog, kernel: float) -> None:
    together, apart = (ease(log, 3.0, 0.9, N, kernel=kernel, dense_limit=limit) for limit in (N, 1))
    np.testing.assert_allclose(dense(apart), dense(together), atol=0.02)


def test_directed_ridge_solves_its_normal_equations(log: InteractionLog) -> None:
    history, targets = [], []
    for user in range(log.n_users):
        rows = log.history(user)
        for place in range(len(rows)):
            x = np.zeros(N)
            for age, row in enumerate(rows[:place][::-1]):
                x[row] += 0.8**age
            history.append(x)
            targets.append(np.eye(N)[rows[place]])
    x, y = np.array(history), np.array(targets)
    expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(N), x.T @ y)
    reached = (x.T @ y) > 0  # the others are not sources of their target
    weights = dense(directed_ridge(log, 2.0, 0.8, N))
    assert np.corrcoef(weights[reached], expected[reached])[0, 1] > 0.95
    assert (weights[~reached] == 0).all()


def test_the_ridge_knows_what_comes_next_and_not_what_came_before() -> None:
    weights = dense(directed_ridge(make_log([[0, 1, 2]] * 30), 1.0, 0.5, N))
    assert weights[0, 1] > 0.5
    assert weights[1, 0] == 0


def test_backward_pairs_count_when_asked_for() -> None:
    weights = dense(directed_ridge(make_log([[0, 1, 2]] * 30), 1.0, 0.5, N, backward=0.5))
    assert 0 < weights[1, 0] < weights[0, 1]


def test_a_row_keeps_its_largest_weights(log: InteractionLog) -> None:
    whole, short = dense(ease(log, 5.0, 0.9, N)), dense(ease(log, 5.0, 0.9, 3))
    for row, kept in zip(whole, short, strict=True):
        largest = np.argsort(-np.abs(row))[:3]
        np.testing.assert_allclose(kept[largest], row[largest])
        assert np.count_nonzero(kept) == 3


def test_the_latest_event_weighs_most() -> None:
    channel = LinearChannel(
        np.arange(4, dtype=np.int64), np.array([2, 1, 0], np.int32), np.array([1, 1, 1], np.float32), 0.5
    )
    rows = np.array([[0, 1, 2], [1, -1, -1], [-1, -1, -1]])
    expected = [[1, 0.5, 0.25], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(channel.score(rows, np.array([3, 1, 0])), expected)


def test_items_in_another_order_keep_their_scores(log: InteractionLog) -> None:
    channel, order = ease(log, 5.0, 0.9, N), np.random.default_rng(0).permutation(N)
    rows, lengths = np.array([[0, 3, 5], [2, -1, -1]]), np.array([3, 1])
    renumbered = np.where(rows < 0, -1, np.argsort(order)[rows])
    np.testing.assert_allclose(
        channel.reordered(order).score(renumbered, lengths), channel.score(rows, lengths)[:, order], rtol=1e-5
    )


def test_scaling_a_channel_scales_its_scores(log: InteractionLog) -> None:
    channel, rows = ease(log, 5.0, 0.9, N), np.array([[0, 3, 5]])
    once, thrice = (c.score(rows, np.array([3])) for c in (channel, channel.scaled(3.0)))
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)
