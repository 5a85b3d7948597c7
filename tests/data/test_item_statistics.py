from __future__ import annotations

import numpy as np
import pytest

from shortlist.data.item_statistics import decayed_popularity, item_statistics
from shortlist.data.log import InteractionLog
from tests.data.small import random_log


def make_log(rows: list[int], times: list[int] | None, values: list[float] | None = None) -> InteractionLog:
    return InteractionLog.from_arrays(
        np.zeros(len(rows), np.int64),
        np.array(rows),
        user_ids=["u"],
        item_ids=list("abcd"),
        timestamps=times,
        values=values,
    )


def test_an_event_loses_half_its_weight_with_each_half_life() -> None:
    log = make_log([0, 1, 2], [0, 7000, 8000])  # half-lives: 1000 and 125 seconds
    slow, fast = decayed_popularity(log)
    assert slow.tolist() == pytest.approx([2**-8, 0.5, 1, 0])
    assert fast[1] == pytest.approx(2**-8)


def test_without_time_weight_falls_with_the_events_that_followed() -> None:
    _, fast = decayed_popularity(make_log([0, 1, 1, 1, 2], None))  # half-life: 4 events
    assert fast[0] == pytest.approx(0.5)
    assert fast[2] == 1


@pytest.mark.parametrize("timestamps", [True, False])
def test_features_are_standardised_over_the_items_seen(timestamps: bool) -> None:
    names, features = item_statistics(random_log(timestamps=timestamps))
    assert features.shape == (20, len(names))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, :-1].mean(axis=0), 0, atol=0.05)


def test_an_item_never_seen_is_flagged_and_unpopular() -> None:
    names, features = item_statistics(make_log([0, 0, 1, 2], [1, 2, 3, 4], [5, 4, 3, 1]))
    assert features[:, names.index("unseen")].tolist() == [0, 0, 0, 1]
    assert features[3, names.index("log_popularity")] == features[:, names.index("log_popularity")].min()
    assert features[3, names.index("log_days_since_first")] == pytest.approx(0, abs=1e-6)


def test_well_liked_items_have_a_higher_mean_value() -> None:
    names, features = item_statistics(make_log([0, 1], [1, 2], [5, 1]))
    column = features[:, names.index("mean_value")]
    assert column[0] > column[2] > column[1]


def test_without_values_there_is_no_such_column() -> None:
    assert "mean_value" not in item_statistics(make_log([0, 1], [1, 2]))[0]


def test_an_empty_log_gives_finite_features() -> None:
    _, features = item_statistics(make_log([], []))
    assert np.isfinite(features).all()
