"""The offer in a real store: what was written is the state, and those who follow are told of every change once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shortlist.errors import DataError
from shortlist.events import items
from shortlist.events.items import ADDED, ItemChange, ItemStore, MissedError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore, StoreError


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


NO_OBJECTS = [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000]
FOREIGN = [
    ("x", "y"),
    ("n", "one", "kind", "remove", "id", "a"),
    ("n", "1", "kind", "removed", "id", "a"),
    ("n", "1", "kind", "remove"),
    *[("n", "1", "kind", "add", "id", "a", "item", item) for item in NO_OBJECTS],
]


@pytest.fixture
def broken(store: ItemStore, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Of which items the store was told something that nobody can read."""
    told: list[bytes] = []
    monkeypatch.setattr(store, "_on_broken", lambda item_id, why: told.append(item_id))
    return told


@pytest.mark.parametrize("item", NO_OBJECTS, ids=lambda item: str(item[:3]))
def test_an_item_that_nobody_can_read_hides_no_other(
    store: ItemStore, raw: ProfileStore, broken: list[bytes], item: bytes
) -> None:
    store.add({b"new": {"year": 1}})
    raw.command("HSET", items.ADDED, "bad", item)
    assert (store.state()[1].added, broken) == ({b"new": {"year": 1}}, [b"bad"])


@pytest.mark.parametrize("fields", FOREIGN, ids=lambda fields: str(fields)[:40])
def test_a_change_that_nobody_can_read_hides_no_other(
    store: ItemStore, raw: ProfileStore, broken: list[bytes], fields: tuple[str | bytes, ...]
) -> None:
    place, _ = store.state()
    raw.command("XADD", items.STREAM, "*", *fields)
    if "1" in fields:  # numbered as ours are
        raw.command("INCR", items.COUNT)
    store.remove([b"b"])
    place, told = store.follow(place, 0.1)
    assert (told, len(broken)) == ([ItemChange("remove", b"b")], 1)
    assert store.follow(place, 0.01)[1] == []


def test_who_begins_at_a_foreign_entry_misses_nothing(store: ItemStore, raw: ProfileStore) -> None:
    store.remove([b"a"])
    raw.command("XADD", items.STREAM, "*", "x", "y")
    place, _ = store.state()
    store.remove([b"b"])
    assert store.follow(place, 0.1)[1] == [ItemChange("remove", b"b")]


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


def test_a_state_of_which_a_part_is_another_servers_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [EmbeddedStore(tmp_path)]
    store = ItemStore(servers[0].url)
    store.remove(f"item-{n}".encode() for n in range(5000))
    command, pages = store._store.command, list[Any]()

    def restarted_in_between(*words: Any) -> Any:
        if words[0] == "SSCAN":
            pages.append(words)
            if len(pages) == 2:
                servers[0].kill()
                servers.append(EmbeddedStore(tmp_path))
        return command(*words)

    monkeypatch.setattr(store._store, "command", restarted_in_between)
    try:
        with pytest.raises(StoreError, match="begun anew while it was read"):
            store.state()
        assert len(store.state()[1].removed) == 5000
    finally:
        servers[-1].stop()


def test_an_item_without_an_id_is_passed_over(server: EmbeddedStore, raw: ProfileStore) -> None:
    told: list[tuple[bytes, str]] = []
    raw.command("HSET", ADDED, b"", "{}", b"new", "{}")
    _, state = ItemStore(server.url, on_broken=lambda item_id, why: told.append((item_id, why))).state()
    assert (state.added, told) == ({b"new": {}}, [(b"", f"{ADDED}, item b'': an id is allowed that is not empty")])
