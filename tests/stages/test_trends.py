"""Popularity lists move with what is taken to now, and stay where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.stages.trends import mixed
from shortlist.types import Int32, Request, Slate
from tests.factories import make_bundle

NOON = 1_700_000_000_000
HOUR = 3_600_000
ROWS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.int32)
SHARES = np.array([[0.4, 0.3, 0.2, 0.1]] * 2, np.float32)


def rows_of(ids: Sequence[bytes]) -> Int32:
    return np.array([int(i) if i.isdigit() else -1 for i in ids], np.int32)


def document(at_ms: int = NOON, **counts: float) -> dict[str, Any]:
    """The same counts in both windows."""
    items = [[name.removeprefix("i"), count, count] for name, count in counts.items()]
    total = sum(counts.values())
    return {"offset": 9, "half_lives_s": [3600, 86_400], "at_ms": at_ms, "totals": [total, total], "items": items}


def mix(*documents: dict[str, Any], pseudo_events: float = 100.0, now_ms: int = NOON) -> tuple[Int32, Any]:
    return mixed(ROWS, SHARES, np.empty(0, np.float32), documents, rows_of, pseudo_events, now_ms)


def test_without_events_the_lists_are_the_bundles() -> None:
    rows, shares = mix()
    assert rows is ROWS
    assert shares is SHARES


def test_shares_are_drawn_to_what_was_counted_by_as_many_pseudo_events_in_each_window() -> None:
    _, shares = mix(document(i3=100.0))
    day = (100 + 100 * 0.1) / 200
    assert shares[0, 0] == pytest.approx((100 + 100 * day) / 200)


def test_every_list_moves() -> None:
    rows, _ = mix(document(i1=1000.0))
    assert rows[:, 0].tolist() == [1, 1]


def test_items_that_no_list_has_come_in() -> None:
    rows, _ = mix(document(i7=1000.0))
    assert rows.tolist() == [[7, 0, 1, 2], [7, 3, 2, 1]]


def test_partitions_add_up() -> None:
    both, one = mix(document(i1=50.0), document(i1=50.0)), mix(document(i1=100.0))
    np.testing.assert_allclose(both[1], one[1])


def test_trends_fade_when_nobody_counts_any_more() -> None:
    rows, shares = mix(document(i3=1000.0), now_ms=NOON + 1000 * HOUR)
    assert rows.tolist() == ROWS.tolist()
    np.testing.assert_allclose(shares, SHARES, rtol=1e-5)


def test_unknown_items_count_only_as_events() -> None:
    rows, shares = mix(document(unknown=100.0, i0=0.0))
    assert rows.tolist() == ROWS.tolist()
    assert shares[0, 0] == pytest.approx(0.4 / 4)


def test_somebody_unknown_sees_what_trends(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", trending=100.0), room=10)
    assert cascade.assortment is not None
    trending = {f"item-{i}": 500.0 for i in range(290, 295)}
    counts = [[name, count, count] for name, count in trending.items()]
    told = document() | {"items": counts, "totals": [2500.0, 2500.0]}
    cascade.assortment.trend([told], NOON)
    (slate,) = cascade.recommend([Request(diversity=0.0)])
    assert isinstance(slate, Slate)
    assert {i.decode() for i in slate.item_ids[:5]} == set(trending)
