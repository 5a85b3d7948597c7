"""Ids map to rows and back; the table lays its parts side by side."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.bundle import Bundle, write_bundle
from shortlist.catalog import Catalog, GrowingIds, IdMap, build_table


@given(st.lists(st.text(min_size=0, max_size=12), unique=True, max_size=60), st.text(max_size=12))
def test_every_id_is_found_and_no_other(ids: list[str], other: str) -> None:
    ids = [i for i in ids if not any(0xD800 <= ord(c) < 0xE000 for c in i)]
    found = IdMap.build(ids)
    assert found.rows([i.encode() for i in ids]).tolist() == list(range(len(ids)))
    assert [found.id(row).decode() for row in range(len(ids))] == ids
    assert found.rows([other.encode()])[0] == (ids.index(other) if other in ids else -1)


def test_ids_survive_a_bundle(tmp_path: Path) -> None:
    ids = [f"item {i}" for i in range(5000)]
    path = write_bundle(tmp_path / "b", arrays=IdMap.build(ids).arrays("item"), graphs={}, documents={})
    loaded = IdMap.load(Bundle.open(path), "item")
    assert loaded.rows([b"item 4999", b"item 5000", b""]).tolist() == [4999, -1, -1]


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' stands twice"):
        IdMap.build(["a", "b", "c", "b"])


def test_an_item_that_changes_often_is_known_by_all_its_rows_in_little_memory() -> None:
    ids = GrowingIds(IdMap.build(["known"]))
    tracemalloc.start()
    for row in range(64, 3064):
        ids.add(b"new", row)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(ids.all_rows(ids.rows([b"known", b"new"])).tolist()) == {0, *range(64, 3064)}
    assert taken < 2**20


def test_parts_that_are_the_same_array_share_columns() -> None:
    vectors, features = np.ones((3, 4), np.float32), np.zeros((3, 2), np.float32)
    table, layout = build_table({"retrieval": vectors, "history": vectors, "features": features})
    assert table.shape == (3, 6)
    assert layout == {"retrieval": [0, 4], "history": [0, 4], "features": [4, 6]}


def test_gather_reads_zeros_for_missing_rows() -> None:
    catalog = Catalog(IdMap.build(["a", "b"]), np.array([[1, 2], [3, 4]], np.float32), {"features": (1, 2)})
    assert catalog.gather(np.array([[1, -1]], np.int32), "features").tolist() == [[[4.0], [0.0]]]


def test_gather_reads_nothing_beyond_the_table() -> None:
    catalog = Catalog(IdMap.build(["a", "b"]), np.zeros((2, 2), np.float32), {"features": (1, 2)})
    with pytest.raises(IndexError, match="not in the item table"):
        catalog.gather(np.array([[1, 2]], np.int32), "features")
