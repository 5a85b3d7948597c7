"""A real Triton over a real store: what leaves the offer leaves the slates, what comes back is there again."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shortlist.errors import ShortlistError
from shortlist.events.items import ADDED, COUNT, STREAM, ItemStore
from shortlist.profiles import PROFILES_URL
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore
from shortlist.serving.client import Client
from shortlist.serving.logs import Lines
from shortlist.serving.offer import ItemFollower
from shortlist.serving.process import free_address, is_dead
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.stages.assortment import Assortment
from tests.factories import make_bundle

CONTENTS = [{"genre": f"g{i % 4}", "year": 1990.0 + i} for i in range(12)]  # of the last items, item-288 on
PATIENCE = 150.0  # seconds, on a busy machine; it takes some milliseconds, and a new process some seconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def log() -> list[str]:
    """What `served` shows of its log."""
    return []


@pytest.fixture(scope="module")
def served(store: EmbeddedStore, log: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("offered")
    build_repository(make_bundle(folder / "bundle", contents=CONTENTS), folder / "repository")
    environment = {PROFILES_URL: store.url}
    with Supervisor(
        folder / "repository", free_address(), instances=1, environment=environment, on_log=Lines(log.append).server
    ) as supervisor:
        yield supervisor


@pytest.fixture
def items(store: EmbeddedStore, served: Supervisor) -> Iterator[ItemStore]:
    """The store, with everything on offer when the test begins."""
    opened = ItemStore(store.url)
    opened.restore(opened.state()[1].removed)
    with Client(served.address.grpc) as client:
        _until(lambda: len(_slates(client)) == 20)
        yield opened


def _slates(client: Client) -> set[str]:
    """What somebody with a history and somebody without one get."""
    return {item.id for user in ("user-0", "") for item in client.recommend(user).items}


def _until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"still not so after {PATIENCE:g} s"
        time.sleep(0.01)


def test_removed_items_vanish_and_restored_ones_return(items: ItemStore, served: Supervisor) -> None:
    with Client(served.address.grpc) as client:
        before = _slates(client)
        items.remove(i.encode() for i in before)
        _until(lambda: not before & _slates(client))
        items.restore(i.encode() for i in before)
        _until(lambda: _slates(client) == before)


def test_a_new_item_is_shown_without_a_restart(items: ItemStore, served: Supervisor) -> None:
    with Client(served.address.grpc) as client:

        def shown() -> set[str]:
            given = client.recommend(history=["item-290"], exclude=[f"item-{i}" for i in range(288, 300)])
            return {item.id for item in given.items}

        assert "new" not in shown()
        items.add({b"new": CONTENTS[2]})
        _until(lambda: "new" in shown())
        items.forget([b"new"])
        _until(lambda: "new" not in shown())


def test_a_process_that_starts_anew_knows_what_is_removed(items: ItemStore, served: Supervisor) -> None:
    with Client(served.address.grpc) as client:
        before = _slates(client)
        items.remove(i.encode() for i in before)
        _until(lambda: not before & _slates(client))
        stubs = served.server.stubs("cascade")
        for stub in stubs:
            stub.kill()
        _until(lambda: all(map(is_dead, stubs)) and _answers(client))
        assert not before & _slates(client)


def test_the_metrics_say_how_many_items_are_removed(items: ItemStore, served: Supervisor) -> None:
    items.remove([b"item-1", b"item-2", b"item-3"])

    def told() -> bool:
        with urllib.request.urlopen(served.address.metrics) as page:
            lines = page.read().decode().splitlines()
        return 3 in [float(line.split()[-1]) for line in lines if line.startswith("shortlist_items_removed{")]

    _until(told)


def test_the_servers_log_says_what_nobody_can_read(store: EmbeddedStore, served: Supervisor, log: list[str]) -> None:
    raw = ProfileStore(store.url)
    raw.command("XADD", STREAM, "*", "n", raw.command("INCR", COUNT), "kind", "add", "id", "bad", "item", "{")
    _until(lambda: any("passed over" in line and "'bad'" in line for line in log))


def _answers(client: Client) -> bool:
    try:
        return bool(client.recommend("user-0").items)
    except ShortlistError:
        return False


class Told(Assortment):
    """Stands for an instance: remembers what it is told."""

    def __init__(self) -> None:
        self.now: set[bytes] = set()
        self.refused = {}
        self.trending = None

    def replace(self, removed: object, added: object) -> None:
        self.now = set(removed)  # type: ignore[call-overload]

    def remove(self, item_id: bytes) -> None:
        self.now.add(item_id)

    def restore(self, item_id: bytes) -> None:
        self.now.discard(item_id)

    def publish(self) -> None:
        """Nobody asks."""


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[tuple[EmbeddedStore, Told]]:
    with EmbeddedStore(tmp_path / "own") as own:
        told = Told()
        follower = ItemFollower(own.url, told, lambda _: None)
        follower.start()
        yield own, told
        follower.stop()


def test_while_the_store_is_down_the_offer_stays_and_then_goes_on(followed: tuple[EmbeddedStore, Told]) -> None:
    own, told = followed
    ItemStore(own.url).remove([b"a", b"b"])
    _until(lambda: told.now == {b"a", b"b"})
    own.kill()
    time.sleep(0.7)  # long enough for a failed read
    assert told.now == {b"a", b"b"}
    with EmbeddedStore(own.folder) as again:
        ItemStore(again.url).restore([b"a"])
        _until(lambda: told.now == {b"b"})


def test_who_misses_part_of_the_stream_reads_everything(followed: tuple[EmbeddedStore, Told]) -> None:
    own, told = followed
    items = ItemStore(own.url)
    items.remove([b"a"])
    _until(lambda: told.now == {b"a"})
    script = "redis.call('SADD', KEYS[2], 'b') redis.call('XADD', KEYS[1], '*', 'n', '9', 'kind', 'remove', 'id', 'c')"
    ProfileStore(own.url).command("EVAL", script, 2, STREAM, "sl:items:removed")
    _until(lambda: told.now == {b"a", b"b"})


def test_what_nobody_can_read_is_told_once_counted_and_passed_over(tmp_path: Path) -> None:
    said: list[str] = []
    with EmbeddedStore(tmp_path / "own") as own:
        raw, told = ProfileStore(own.url), Told()
        raw.command("HSET", ADDED, "bad", "{")
        follower = ItemFollower(own.url, told, said.append)
        follower.start()
        for _ in range(2):
            raw.command("XADD", STREAM, "*", "n", raw.command("INCR", COUNT), "kind", "add", "id", "bad", "item", "{")
        ItemStore(own.url).remove([b"a"])
        _until(lambda: told.now == {b"a"})
        follower.stop()
    assert follower.broken >= 3
    assert ["'bad'" in line for line in said if "passed over" in line] == [True]


class Failing(Told):
    """Stands for an instance that can take in nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def replace(self, removed: object, added: object) -> None:
        self.tries += 1
        raise ValueError("no room")


def test_a_failure_that_nobody_foresaw_is_tried_again_and_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    with EmbeddedStore(tmp_path / "own") as own:
        failing = Failing()
        follower = ItemFollower(own.url, failing, said.append)
        follower.start()
        _until(lambda: failing.tries >= 4)
        follower.stop()
    told = [line for line in said if "no room" in line]
    assert 1 <= len(told) <= 2  # the first try has another trace: it is made as the follower starts
