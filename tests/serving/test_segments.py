"""Segments: as many as there are, told from people who did not place them."""

from pathlib import Path

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.serving import segments
from shortlist.serving.segments import find_segments, lists, silhouette, unit
from shortlist.types import Float32
from tests.factories import make_bundle


def planted(groups: int, people: int = 600, spread: float = 0.1) -> Float32:
    """Unit vectors in so many groups."""
    rng = np.random.default_rng(0)
    middles = unit(rng.normal(size=(groups, 16)).astype(np.float32))
    return unit((middles[rng.integers(0, groups, people)] + spread * rng.normal(size=(people, 16))).astype(np.float32))


@pytest.mark.parametrize("groups", [4, 8, 16])
def test_the_silhouette_finds_the_groups_there_are(
    groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle"))
    monkeypatch.setattr(segments, "user_vectors", lambda *_: planted(groups))
    found = find_segments(cascade)
    assert found is not None
    assert len(found.centroids) == groups


def test_the_silhouette_is_that_of_the_textbook() -> None:
    """Two points at 0 and 1, two at 10 and 12: a is 1, 1, 2, 2; b is 11, 10, 9.5, 11.5."""
    points = np.array([[0], [1], [10], [12]], np.float32)
    expected = np.mean([(11 - 1) / 11, (10 - 1) / 10, (9.5 - 2) / 9.5, (11.5 - 2) / 11.5])
    assert silhouette(points, np.array([0, 0, 1, 1])) == pytest.approx(expected)


def test_who_is_alone_in_a_cluster_counts_nothing() -> None:
    points = np.array([[0], [1], [10]], np.float32)
    assert silhouette(points, np.array([0, 0, 1])) == pytest.approx((0.9 + 8 / 9) / 3)


def test_one_cluster_has_no_silhouette() -> None:
    assert silhouette(planted(2), np.zeros(600, np.int64)) == 0


def test_a_list_begins_with_what_is_nearest() -> None:
    items = np.eye(4, dtype=np.float32)
    taste = np.array([[0.1, 0.5, 0.9, -1]], np.float32)
    assert lists(taste, items, 3).tolist() == [[2, 1, 0]]


def test_segments_of_a_bundle_list_items_of_its_catalogue(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", users=60))
    found = find_segments(cascade)
    assert found is not None
    assert found.rows.min() >= 0
    assert found.rows.max() < len(cascade.catalog)


def test_a_handful_of_people_has_no_segments(tmp_path: Path) -> None:
    assert find_segments(Cascade.load(make_bundle(tmp_path / "bundle", users=5))) is None
