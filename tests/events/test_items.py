"""The offer in a real store: what was written is the state, and those who follow are told of every change once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shortlist.errors import DataError
from shortlist.events import items
from shortlist.events.items import ItemChange, ItemStore, MissedError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore, StoreError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def raw(server: EmbeddedStore) -> ProfileStore:
    store = ProfileStore(server.url)
    store.command("FLUSHALL")
    return store


@pytest.fixture
def store(server: EmbeddedStore, raw: ProfileStore) -> ItemStore:
    return ItemStore(server.url)


def test_what_was_written_is_the_state(store: ItemStore) -> None:
    store.remove([b"a", b"b", b"\xff"])
    store.restore([b"b"])
    store.add({b"new": {"genres": ["noir"], "year": 1999}, b"gone": {}})
    store.forget([b"gone"])
    _, state = store.state()
    assert (state.removed, state.added) == ({b"a", b"\xff"}, {b"new": {"genres": ["noir"], "year": 1999}})


def test_followers_are_told_of_changes_in_order(store: ItemStore) -> None:
    place, _ = store.state()
    store.remove([b"a"])
    store.add({b"new": {"title": "Ü"}})
    store.restore([b"a"])
    place, told = store.follow(place, 0.1)
    assert told == [
        ItemChange("remove", b"a"),
        ItemChange("add", b"new", {"title": "Ü"}),
        ItemChange("restore", b"a"),
    ]
    assert store.follow(place, 0.01)[1] == []


def test_what_changes_nothing_is_not_told(store: ItemStore) -> None:
    store.remove([b"a"])
    store.add({b"new": {"year": 1}})
    place, _ = store.state()
    assert store.remove([b"a"]) + store.restore([b"b"]) + store.add({b"new": {"year": 1}}) + store.forget([b"c"]) == 0
    assert store.follow(place, 0.01)[1] == []


def test_an_item_that_is_added_is_on_offer(store: ItemStore) -> None:
    store.remove([b"new"])
    store.add({b"new": {}})
    assert store.state()[1].removed == frozenset()


def test_who_was_away_for_too_long_has_to_read_everything(store: ItemStore, raw: ProfileStore) -> None:
    store.remove([b"a"])
    place, _ = store.state()
    store.remove(f"{i}".encode() for i in range(300))
    raw.command("XTRIM", items.STREAM, "MAXLEN", "=", 10)
    with pytest.raises(MissedError, match="holds change 292 after 1"):
        store.follow(place, 0.1)


def test_a_store_that_lost_its_memory_is_noticed(store: ItemStore, raw: ProfileStore) -> None:
    store.remove([b"a", b"b"])
    place, _ = store.state()
    raw.command("FLUSHALL")
    with pytest.raises(MissedError, match="has begun anew"):
        store.follow(place, 0.1)


def test_a_store_that_lost_its_memory_and_went_on_is_noticed(store: ItemStore, raw: ProfileStore) -> None:
    store.remove([b"a", b"b"])
    place, _ = store.state()
    raw.command("FLUSHALL")
    store.remove([b"c"])
    with pytest.raises(MissedError, match=r"holds change 1 after 2|has begun anew"):
        store.follow(place, 0.1)


def test_there_may_be_so_many_new_items(store: ItemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_WRITE", items._WRITE.replace(str(items.MOST_ADDED), "3"))
    store.add({b"1": {}, b"2": {}, b"3": {}})
    store.add({b"3": {"year": 2}})
    with pytest.raises(DataError, match="new items are in it already"):
        store.add({b"4": {}})


@pytest.mark.parametrize(
    ("item_id", "attributes", "said"),
    [
        (b"", {}, "1 to 256 bytes"),
        (b"x" * 257, {}, "1 to 256 bytes"),
        (b"x", {"year": float("nan")}, "cannot be written as JSON"),
        (b"x", {"title": "x" * 20_000}, "at most 16384 bytes"),
    ],
)
def test_impossible_items_are_refused(
    store: ItemStore, item_id: bytes, attributes: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        store.add({item_id: attributes})


def test_a_store_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as told:
        ItemStore("valkey://user:secret@127.0.0.1:1/0", 0.5).state()
    assert "127.0.0.1:1/0" in str(told.value)
    assert "secret" not in str(told.value)
