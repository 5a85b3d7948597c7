"""Which cells of an inverted file are searched for eligible rows: the nearest that hold enough of them."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.devices.cells import _nearest_cells

SCORES = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
HELD = np.random.default_rng(1).integers(0, 9, 500)


@pytest.mark.parametrize("enough", [1, 100, 1000])
def test_the_nearest_cells_with_enough_rows_are_chosen(enough: int) -> None:
    keys, _ = _nearest_cells(SCORES, HELD, enough)
    for own, cells in zip(SCORES, keys, strict=True):
        chosen = cells[cells >= 0]
        nearest = [c for c in np.argsort(-own) if HELD[c]][: len(chosen)]
        assert set(chosen) == set(nearest)
        assert HELD[chosen].sum() >= enough


def test_hardly_more_cells_than_are_needed_are_chosen() -> None:
    keys, _ = _nearest_cells(SCORES, HELD, 1000)
    for own, cells in zip(SCORES, keys, strict=True):
        needed = np.searchsorted(np.cumsum(HELD[np.argsort(-own)]), 1000) + 1
        assert (cells >= 0).sum() <= needed + 5


def test_cells_come_with_their_scores() -> None:
    keys, scores = _nearest_cells(SCORES, HELD, 100)
    np.testing.assert_array_equal(scores[keys >= 0], np.take_along_axis(SCORES, np.maximum(keys, 0), 1)[keys >= 0])


def test_all_cells_with_any_rows_are_chosen_where_they_hold_too_few() -> None:
    keys, _ = _nearest_cells(SCORES, HELD, 10**9)
    assert {*keys[0].tolist()} - {-1} == set(np.flatnonzero(HELD).tolist())


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_no_number_chooses_nothing_and_harms_nobody(score: float) -> None:
    scores = SCORES.copy()
    scores[1] = score
    keys, _ = _nearest_cells(scores, HELD, 100)
    assert (keys[1] == -1).all()
    np.testing.assert_array_equal(keys[0][keys[0] >= 0], _nearest_cells(SCORES[:1], HELD, 100)[0][0])


def test_scores_of_any_size_are_in_bounds() -> None:
    scores = np.linspace(-3e38, 3e38, 500, dtype=np.float32)[None]
    keys, _ = _nearest_cells(scores, HELD, 100)
    assert keys.max() < 500
