"""The compiled part of retrieval, against NumPy."""

import numpy as np
import pytest

from shortlist.stages.fusion import distinct, floor


@pytest.mark.parametrize("wanted", [1, 7, 99])
def test_the_floor_is_the_score_of_the_last_that_is_wanted(wanted: int) -> None:
    rng = np.random.default_rng(wanted)
    linear = rng.normal(size=300).astype(np.float32).round(1)  # below and above zero, many of them equal
    touched = rng.permutation(300)[:100].astype(np.int32)
    assert floor(touched, wanted, linear) == np.sort(linear[touched])[-wanted]


@pytest.mark.parametrize("wanted", [0, 3, 4])
def test_there_is_no_floor_where_all_are_wanted(wanted: int) -> None:
    assert floor(np.array([0, 1, 2], np.int32), wanted, np.ones(3, np.float32)) == -np.inf


def test_rows_that_stand_twice_count_once() -> None:
    state = np.zeros(9, np.uint8)
    assert distinct(np.array([4, 8, 4, 0], np.int32), state) == 3
    assert not state.any()
