"""A real store: what it keeps, and what it refuses."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import valkey

from shortlist.errors import ConfigError
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.store import CHANGED, TTL_S, ProfileStore, StoreError
from tests.serving.certificates import Authority, Pair


def test_profiles_come_back_in_order_and_none_where_there_is_none(store: ProfileStore) -> None:
    store.commit("t", 0, None, 1, {b"a": b"1", b"b": b"\x00\xff"})
    assert store.read([b"b", b"nobody", b"a"]) == [b"\x00\xff", None, b"1"]


def test_reading_nobody_asks_nothing(store: ProfileStore) -> None:
    assert store.read([]) == []


def test_the_offset_moves_with_the_profiles(store: ProfileStore) -> None:
    assert store.offset("t", 0) is None
    assert store.commit("t", 0, None, 7, {})
    assert store.offset("t", 0) == 7


def test_a_commit_from_another_offset_writes_nothing(store: ProfileStore) -> None:
    store.commit("t", 0, None, 5, {b"a": b"new"})
    assert not store.commit("t", 0, 3, 6, {b"a": b"zombie", b"b": b"zombie"})
    assert (store.read([b"a", b"b"]), store.offset("t", 0)) == ([b"new", None], 5)


def test_a_commit_that_expects_an_offset_is_refused_by_a_store_without_memory(store: ProfileStore) -> None:
    assert not store.commit("t", 0, 5, 6, {b"a": b"x"})


def test_partitions_have_offsets_of_their_own(store: ProfileStore) -> None:
    store.commit("t", 0, None, 5, {})
    assert store.commit("t", 1, None, 3, {})
    assert (store.offset("t", 0), store.offset("t", 1)) == (5, 3)


def test_profiles_expire_and_offsets_do_not(store: ProfileStore) -> None:
    store.commit("t", 0, None, 1, {b"a": b"x"})
    assert 0 < store.command("TTL", "sl:p:a") <= TTL_S
    assert store.command("TTL", "sl:offset:t:0") == -1


def test_each_changed_user_is_told(store: ProfileStore, server: EmbeddedStore) -> None:
    with valkey.Valkey.from_url(server.url) as client, client.pubsub() as listener:
        listener.psubscribe(CHANGED + b"*")
        listener.get_message(timeout=60)
        store.commit("t", 0, None, 1, {b"a": b"x", b"b": b"y"})
        told = [listener.get_message(timeout=60) for _ in range(2)]
    assert [(m["channel"], m["data"]) for m in told] == [(CHANGED + user, user) for user in (b"a", b"b")]


def test_all_users_are_listed(store: ProfileStore) -> None:
    store.commit("t", 0, None, 1, {f"u{i}".encode(): b"x" for i in range(3000)})
    assert sorted(store.users()) == sorted(f"u{i}".encode() for i in range(3000))


def test_a_stopped_store_is_an_error_that_names_it_without_the_password() -> None:
    gone = ProfileStore(f"valkey://:secret@127.0.0.1:{free_port()}/0", timeout_s=0.2)
    with pytest.raises(StoreError, match=r"^store 127\.0\.0\.1:\d+/0: ") as caught:
        gone.offset("t", 0)
    assert "secret" not in str(caught.value)


def test_a_store_that_does_not_answer_in_time_is_an_error_and_its_late_answer_is_not_taken_for_another(
    tmp_path: Path,
) -> None:
    with EmbeddedStore(tmp_path) as server:
        ProfileStore(server.url).commit("t", 0, None, 3, {b"a": b"x"})
        store, told, until = ProfileStore(server.url, timeout_s=0.1), None, time.monotonic() + 60
        server.process.send_signal(19)  # SIGSTOP
        with pytest.raises(StoreError):
            store.read([b"a"])
        server.process.send_signal(18)  # SIGCONT
        while told is None and time.monotonic() < until:  # a busy machine answers late
            with suppress(StoreError):
                told = store.offset("t", 0)
        assert told == 3


def test_a_store_that_restarted_is_found_again_without_an_error(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as server:
        store = ProfileStore(server.url)
        store.commit("t", 0, None, 3, {b"a": b"x"})
    with EmbeddedStore(tmp_path):
        assert store.read([b"a"]) == [b"x"]
        assert store.commit("t", 0, 3, 4, {})


@pytest.mark.parametrize("url", ["http://x", "127.0.0.1:6379", "valkey://127.0.0.1:6379?no_such_option=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="profile store"):
        ProfileStore(url)


def test_tls_is_a_matter_of_the_url(server: EmbeddedStore, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    with behind_tls(server, authority.sign("store", "127.0.0.1")) as port:
        store = ProfileStore(f"valkeys://127.0.0.1:{port}/0?ssl_ca_certs={authority.cert}")
        assert store.command("PING") == b"PONG"
        store.close()


def test_a_store_that_cannot_prove_itself_is_not_talked_to(server: EmbeddedStore, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").sign("store", "127.0.0.1")
    with behind_tls(server, stranger) as port, pytest.raises(StoreError, match="certificate verify failed"):
        ProfileStore(f"valkeys://127.0.0.1:{port}/0").command("PING")


@contextmanager
def behind_tls(server: EmbeddedStore, pair: Pair) -> Iterator[int]:
    """A port of TLS in front of the embedded server, which is built without, for one connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    def pass_on() -> None:
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as client:
            inner = socket.socket(socket.AF_UNIX)
            with inner:
                inner.connect(server.url.removeprefix("unix://"))
                while question := client.recv(65536):
                    inner.sendall(question)
                    client.sendall(inner.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pass_on)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
