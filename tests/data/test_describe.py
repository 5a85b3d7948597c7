from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.dataset import Dataset
from shortlist.data.describe import describe, draw, gini, histogram
from tests.data.small import interactions, random_dataset

ROWS = [
    ("a", "x", 0, "view", None),
    ("a", "x", 86_400, "view", None),
    ("a", "y", 90_000, "buy", 3.0),
    ("b", "x", 100_000, "buy", 5.0),
]


def test_the_figures_of_a_small_data_set() -> None:
    found = describe(Dataset.assemble(interactions(ROWS)))
    assert (found.interactions, found.users, found.items) == (4, 2, 2)
    assert found.sparsity == pytest.approx(0.25)
    assert found.repeat_rate == pytest.approx(0.25)
    assert found.events == {"buy": 2, "view": 2}
    assert found.mean_value == 4
    assert (found.first, found.last) == ("1970-01-01T00:00:00+00:00", "1970-01-02T03:46:40+00:00")


def test_data_without_time_have_no_span() -> None:
    found = describe(Dataset.assemble(interactions([("a", "x", None, "view", None)])))
    assert (found.first, found.last, found.mean_value) == (None, None, None)


def test_a_description_is_plain_json() -> None:
    found = describe(random_dataset())
    assert json.loads(json.dumps(found.to_document()))["interactions"] == 400


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_every_count_falls_into_one_bin(counts: list[int]) -> None:
    found = histogram(np.array(counts))
    assert sum(found.things) == len(counts)
    assert found.low[0] == min(counts)
    assert found.high[-1] == max(counts)


def test_gini_is_zero_for_equals_and_near_one_for_a_monopoly() -> None:
    assert gini(np.full(100, 7)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [50])) == pytest.approx(0.99)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(describe(random_dataset()), tmp_path / "data.png")
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")
