"""Popularity lists follow the context where the context tells something, and only there."""

import numpy as np

from shortlist.data.log import InteractionLog
from shortlist.data.splits import make_split
from shortlist.training.popularity import fit_popularity

ITEMS = 40


def _log(hour_matters: bool) -> InteractionLog:
    """Mornings are for the first half of the items, evenings for the second half: or the hour tells nothing."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(300), 20)
    hours = rng.choice([8, 20], len(users))
    halves = np.where(hours == 8, 0, ITEMS // 2) if hour_matters else rng.choice([0, ITEMS // 2], len(users))
    rows = halves + np.minimum(rng.geometric(0.2, len(users)) - 1, ITEMS // 2 - 1)
    days = np.tile(np.arange(20), 300)
    return InteractionLog.from_arrays(
        users,
        rows,
        user_ids=[f"u{u}" for u in range(300)],
        item_ids=[f"i{i}" for i in range(ITEMS)],
        timestamps=days * 86_400 + hours * 3600,
    )


def test_lists_differ_by_hour_when_the_hour_matters() -> None:
    table = fit_popularity(make_split(_log(hour_matters=True), "leave-one-out"))
    assert table.field == "hour"
    assert table.values == ["8", "20"]
    assert (table.rows[1, :5] < ITEMS // 2).all()
    assert (table.rows[2, :5] >= ITEMS // 2).all()


def test_everyone_gets_one_list_when_the_hour_tells_nothing() -> None:
    table = fit_popularity(make_split(_log(hour_matters=False), "leave-one-out"))
    assert table.field is None
    assert table.rows.shape == (1, ITEMS)


def test_shares_are_probabilities_best_first() -> None:
    table = fit_popularity(make_split(_log(hour_matters=True), "leave-one-out"))
    np.testing.assert_allclose(table.shares.sum(axis=1), 1, rtol=1e-5)
    assert (np.diff(table.shares, axis=1) <= 0).all()


def test_held_out_events_do_not_count() -> None:
    log = _log(hour_matters=True)
    split = make_split(log, "leave-one-out")
    everyone = fit_popularity(split)
    counts = split.train.popularity()
    share = (counts + 1) / (counts.sum() + ITEMS)
    np.testing.assert_allclose(np.sort(everyone.shares[0]), np.sort(share), rtol=1e-4)
