"""/v1/live and /v1/profile against a real store: who watches gets a slate for every change, and not one too many."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from shortlist.gateway import live
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore, StoreError
from tests.gateway.conftest import Start, client_of
from tests.gateway.events import put

Watch = Callable[..., ClientConnection]


@pytest.fixture(scope="module")
def connected(store: EmbeddedStore) -> Iterator[httpx.Client]:
    """Of a gateway with a store, whose Triton is away: what it sends is the profile, and why there is no slate."""
    with client_of(profiles=store.url) as client:
        yield client


@pytest.fixture
def profiles(store: EmbeddedStore) -> Iterator[ProfileStore]:
    opened = ProfileStore(store.url)
    yield opened
    opened.close()


@pytest.fixture
def watch(connected: httpx.Client) -> Iterator[Watch]:
    """Open a WebSocket for a user."""
    opened: list[ClientConnection] = []

    def opener(query: str, client: httpx.Client = connected, **options: Any) -> ClientConnection:
        url = str(client.base_url).rstrip("/").replace("http", "ws", 1)
        opened.append(connect(f"{url}/v1/live{query}", open_timeout=60, legacy=True, **options))
        return opened[-1]

    yield opener
    for connection in opened:
        connection.close()


def received(connection: ClientConnection, seconds: float = 60) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(timeout=seconds))
    return message


def version(message: dict[str, Any]) -> int:
    """Events in the profile that a message shows."""
    return int((message.get("profile") or {"version": 0})["version"])


def up_to(connection: ClientConnection, wanted: int) -> list[int]:
    """The versions received until `wanted` came."""
    versions = [version(received(connection))]
    while versions[-1] < wanted:
        versions.append(version(received(connection)))
    return versions


def drain(connection: ClientConnection, profiles: ProfileStore, user: str) -> None:
    """Receive what is sent at the beginning, also when the subscription stands: then a change has come through it."""
    received(connection)
    put(profiles, user, "item-1")
    up_to(connection, 1)
    with contextlib.suppress(TimeoutError):
        while True:
            received(connection, 0.5)


def metric(client: httpx.Client, line: str) -> float:
    found = [row for row in client.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].split()[-1]) if found else 0.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not within a minute"
        time.sleep(0.02)


def answers(store: ProfileStore) -> bool:
    """Whether a store that was started again has read its file."""
    try:
        store.read([b"anybody"])
    except StoreError:
        return False
    return True


def test_a_profile_is_shown_newest_event_first(connected: httpx.Client, profiles: ProfileStore) -> None:
    put(profiles, "berta", "item-1", "item-2")
    shown = connected.get("/v1/profile/berta").json()
    assert [event["item_id"] for event in shown["history"]] == ["item-2", "item-1"]
    assert (shown["version"], shown["counts"]) == (2, {"click": 2})
    assert shown["affinities"]["music"] == pytest.approx(2, abs=0.01)


def test_an_id_with_a_slash_is_one_id(connected: httpx.Client, profiles: ProfileStore) -> None:
    put(profiles, "a/b?c", "item-1")
    assert connected.get("/v1/profile/a%2Fb%3Fc").json()["user_id"] == "a/b?c"


def test_a_person_nobody_knows_is_not_found(connected: httpx.Client) -> None:
    assert connected.get("/v1/profile/nobody").status_code == 404


def test_a_store_that_is_away_is_a_503(start: Start) -> None:
    answer = start(profiles="valkey://127.0.0.1:9/0").get("/v1/profile/anna")
    assert (answer.status_code, "store" in answer.json()["error"]["message"]) == (503, True)


def test_who_watches_is_told_at_once_and_at_every_change(watch: Watch, profiles: ProfileStore) -> None:
    connection = watch("?user=carl")
    first = received(connection)
    put(profiles, "carl", "item-3")
    assert (version(first), up_to(connection, 1)[-1]) == (0, 1)


def test_a_missing_slate_is_told_with_the_profile(watch: Watch) -> None:
    assert "ranking server is away" in received(watch("?user=dora"))["problem"]


def test_what_is_missing_is_tried_again_without_a_change(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AGAIN_AFTER", 0.1)
    connection = watch("?user=dora")
    assert ["problem" in received(connection) for _ in range(5)] == [True] * 5


def test_changes_of_others_are_not_told(watch: Watch, profiles: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AGAIN_AFTER", 600.0)
    connection = watch("?user=emil")
    drain(connection, profiles, "emil")
    put(profiles, "somebody else", "item-3")
    with pytest.raises(TimeoutError):
        connection.recv(timeout=0.5)


def test_a_burst_of_changes_becomes_few_slates_and_ends_with_the_last(
    watch: Watch, profiles: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "APART", 0.5)  # so that a slow burst is one, too
    connection = watch("?user=frida")
    for number in range(100):
        put(profiles, "frida", f"item-{number}")
    versions = up_to(connection, 100)
    assert versions == sorted(versions)
    assert len(versions) < 50


def test_who_takes_nothing_is_not_read(connected: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the answers to its pings would gather in memory."""
    monkeypatch.setattr(live, "TAKEN_WITHIN", 600.0)  # else it would be dropped about when we stop waiting
    with socket.create_connection(("127.0.0.1", connected.base_url.port or 0), timeout=60) as raw:
        raw.sendall(
            b"GET /v1/live?user=paul HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"101" in raw.recv(1024)
        pings = (b"\x89\xfd" + bytes(4) + b"a" * 125) * 200_000
        raw.settimeout(4)
        with pytest.raises(TimeoutError):
            raw.sendall(pings)


def test_who_leaves_is_forgotten(watch: Watch, connected: httpx.Client) -> None:
    until(lambda: metric(connected, "shortlist_gateway_live ") == 0)
    connection = watch("?user=gustav")
    received(connection)
    assert metric(connected, "shortlist_gateway_live ") == 1
    connection.close()
    until(lambda: metric(connected, "shortlist_gateway_live ") == 0)


@pytest.mark.parametrize("query", ["", "?user=", "?user=a&k=0", "?user=a&k=51", "?user=a&k=x", "?user=" + "u" * 300])
def test_a_wrong_query_is_closed_with_a_reason(watch: Watch, query: str) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        watch(query).recv(timeout=60)
    assert (closed.value.rcvd.code, "allowed" in closed.value.rcvd.reason) == (4400, True)  # type: ignore[union-attr]


def test_a_socket_needs_a_key_that_may_read(start: Start, keys: dict[str, str], watch: Watch, folder: Any) -> None:
    client = start(keys=folder / "keys.jsonl", profiles="valkey://127.0.0.1:9/0")
    codes = []
    for protocols in (None, ["shortlist", "key.sl-no"], ["shortlist", f"key.{keys['track']}"]):
        with pytest.raises(ConnectionClosed) as closed:
            watch("?user=a", client, subprotocols=protocols).recv(timeout=60)
        codes.append(closed.value.rcvd.code)  # type: ignore[union-attr]
    assert codes == [4401, 4401, 4403]


def test_a_key_is_offered_as_a_subprotocol_and_not_repeated(
    start: Start, keys: dict[str, str], watch: Watch, folder: Any
) -> None:
    client = start(keys=folder / "keys.jsonl", profiles="valkey://127.0.0.1:9/0")
    connection = watch("?user=a", client, subprotocols=["shortlist", f"key.{keys['read']}"])
    assert connection.subprotocol == "shortlist"
    assert received(connection)["user_id"] == "a"


def test_a_foreign_page_opens_no_socket(watch: Watch) -> None:
    with pytest.raises(Exception, match="403"):
        watch("?user=a", origin="https://evil.example")


def test_a_client_that_talks_is_closed(watch: Watch) -> None:
    connection = watch("?user=heinz")
    connection.send("hello")
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.recv(timeout=60)
    assert connection.close_code == 1003


def test_without_a_store_nothing_is_live(start: Start, watch: Watch) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        watch("?user=a", start()).recv(timeout=60)
    assert "--profiles" in closed.value.rcvd.reason  # type: ignore[union-attr]


def test_beyond_the_most_watchers_one_more_is_refused(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, connected: httpx.Client
) -> None:
    until(lambda: metric(connected, "shortlist_gateway_live ") == 0)
    monkeypatch.setattr(live, "MAX_LIVE", 1)
    received(watch("?user=a"))
    with pytest.raises(ConnectionClosed) as closed:
        watch("?user=b").recv(timeout=60)
    assert closed.value.rcvd.code == 4503  # type: ignore[union-attr]


def test_a_slow_client_is_dropped_and_what_waits_for_it_is_bounded(
    connected: httpx.Client, monkeypatch: pytest.MonkeyPatch, profiles: ProfileStore
) -> None:
    monkeypatch.setattr(live, "TAKEN_WITHIN", 0.3)
    monkeypatch.setattr(live, "APART", 0.0)
    padding = "x" * 100_000
    monkeypatch.setattr(live, "shown", lambda user, profile, now_ms: {"version": profile.version, "padding": padding})
    before = metric(connected, "shortlist_gateway_pushed_total")
    with socket.create_connection(("127.0.0.1", connected.base_url.port or 0)) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = ("GET /v1/live?user=ida HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade")
        lines += ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "")
        silent.sendall("\r\n".join(lines).encode())
        end = time.monotonic() + 60
        while metric(connected, 'shortlist_gateway_dropped_total{reason="slow"}') == 0:
            assert time.monotonic() < end, "never dropped"
            put(profiles, "ida", "item-1")
    pushed = metric(connected, "shortlist_gateway_pushed_total") - before
    assert pushed < 100  # what the kernel's buffers took, and the one that waited


def test_who_watches_learns_what_changed_while_the_store_was_away(tmp_path: Any, start: Start, watch: Watch) -> None:
    first = EmbeddedStore(tmp_path / "s")
    client = start(profiles=first.url)
    connection = watch("?user=jana", client)
    received(connection)
    first.kill()
    with EmbeddedStore(tmp_path / "s") as second:
        again = ProfileStore(second.url)
        until(lambda: answers(again))
        put(again, "jana", "item-1")
        again.close()
        assert up_to(connection, 1)[-1] == 1


def test_only_those_are_listened_to_whom_somebody_watches(
    connected: httpx.Client, watch: Watch, profiles: ProfileStore
) -> None:
    def heard() -> set[bytes]:
        return set(profiles.command("PUBSUB", "CHANNELS", "sl:changed*"))

    until(lambda: not heard())
    first, second = watch("?user=kurt"), watch("?user=lena")
    until(lambda: heard() == {b"sl:changed:kurt", b"sl:changed:lena"})
    first.close()
    until(lambda: heard() == {b"sl:changed:lena"})
    second.close()
    until(lambda: not heard())
