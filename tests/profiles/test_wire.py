"""The reader of the request path, against a real store."""

import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shortlist.errors import ConfigError
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.store import ProfileStore, StoreError
from shortlist.profiles.wire import Wire


def wired(server: EmbeddedStore, patience: float = 5.0) -> Wire:
    wire = Wire(server.url, patience)
    wire.connect()
    return wire


def test_it_reads_what_a_client_reads(server: EmbeddedStore, store: ProfileStore) -> None:
    store.commit("t", 0, None, 1, {b"a": b"1\r\n$-1\r\n", "ü".encode(): b"", b"c": bytes(range(256))})
    people = [b"c", b"nobody", "ü".encode(), b"a", b"", b"c"]
    wire = wired(server)
    assert wire.read(people) == store.read(people)
    assert wire.read(people[::-1]) == store.read(people[::-1])
    wire.close()


def test_answers_may_be_larger_than_its_buffer(server: EmbeddedStore, store: ProfileStore) -> None:
    blobs = {b"%d" % i: bytes([i]) * (40_000 + 17 * i) for i in range(64)}
    store.commit("t", 0, None, 1, blobs)
    wire = wired(server)
    assert wire.read(list(blobs)) == list(blobs.values())
    wire.close()


def test_a_store_that_hangs_costs_its_patience(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store") as server:
        wire = wired(server)
        wire._patience = 0.05
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(StoreError, match="does not answer in time"):
            wire.read([b"a"])
        assert time.monotonic() - began < 5
        server.process.send_signal(signal.SIGCONT)
        wire.close()


class Dribbling:
    """A socket whose peer sends a byte every 0.4 s, by a clock of its own; it may be waited for as sockets are."""

    now = 0.0
    timeout = 0.0

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def sendall(self, data: bytes) -> None:
        self.now += 0.4

    def recv(self, size: int) -> bytes:
        self.now += min(0.4, self.timeout)
        if self.timeout < 0.4:
            raise TimeoutError("timed out")
        return b"*"


def test_a_store_that_answers_bit_by_bit_costs_no_more_than_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, wire = Dribbling(), Wire("valkey://127.0.0.1:1/0", 1.0)
    wire._connection._sock = slow
    monkeypatch.setattr("shortlist.profiles.wire.time", SimpleNamespace(monotonic=lambda: slow.now))
    with pytest.raises(StoreError, match="does not answer in time"):
        wire.read([b"a"])
    assert slow.now <= 1.0 + 1e-9
    wire._connection._sock = None


def test_a_killed_store_is_an_error(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store") as server:
        wire = wired(server)
        server.kill()
        with pytest.raises(StoreError):
            wire.read([b"a"])
        wire.close()


def test_a_refusal_is_told(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedStore(tmp_path / "store", port) as server:
        ProfileStore(server.url).command("CONFIG", "SET", "requirepass", "secret")
        with pytest.raises(StoreError, match="NOAUTH"):
            Wire(server.url, 5.0).connect()
        wire = Wire(f"valkey://:secret@127.0.0.1:{port}/3", 5.0)
        wire.connect()
        assert wire.read([b"a"]) == [None]
        wire.close()


@pytest.mark.parametrize("url", ["", "store", "http://a/0", "valkey://", "valkey://a:port/0", "valkey://a/0?x=1"])
def test_a_malformed_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="profile store"):
        Wire(url, 5.0)


@pytest.mark.parametrize("answer", [b"*1\r\n:5\r\n", b"*1\r\n$x\r\n\r\n", b"*1\r\n$1\r\na\r\n*1\r\n"])
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                for said in (b"*1\r\n$-1\r\n", answer):
                    client.recv(1000)
                    client.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        wire = Wire(f"valkey://127.0.0.1:{server.getsockname()[1]}/0", 5.0)
        wire.connect()
        with pytest.raises(StoreError, match="no list of blobs"):
            wire.read([b"a"])
        wire.close()
        thread.join()
