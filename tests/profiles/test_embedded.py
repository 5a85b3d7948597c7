"""The server of our own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shortlist.errors import ConfigError
from shortlist.profiles import embedded
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.store import ProfileStore, StoreError

PARENT = """
import sys, time
from pathlib import Path
from shortlist.profiles import embedded
from shortlist.profiles.embedded import EmbeddedStore
print(EmbeddedStore(Path(sys.argv[1])).process.pid, flush=True)
time.sleep(600)
"""


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as server:
        ProfileStore(server.url).commit("t", 0, None, 9, {b"a": b"x"})
        server.kill()
    with EmbeddedStore(tmp_path) as server:
        store = ProfileStore(server.url)
        assert (store.offset("t", 0), store.read([b"a"])) == (9, [b"x"])


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        server = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    assert server.wait(timeout=60) is None


def test_a_folder_has_one_server_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedStore(tmp_path) as first:
        monkeypatch.setattr(embedded, "_START_S", 1.0)
        with pytest.raises(StoreError, match="another process keeps"):
            EmbeddedStore(tmp_path)
        assert ProfileStore(first.url).command("PING") == b"PONG"


def test_a_server_waits_for_the_end_of_its_predecessor(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        first = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        with EmbeddedStore(tmp_path) as second:
            assert has_ended(first)
            assert second.alive


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_only_its_owner_may_open_the_socket(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as server:
        assert (Path(server.url.removeprefix("unix://")).stat().st_mode & 0o777) == 0o700


def test_it_listens_on_a_port_where_one_is_given(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedStore(tmp_path, port):
        assert ProfileStore(f"redis://127.0.0.1:{port}").command("PING") == b"PONG"


def test_it_is_gone_after_stop(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as server:
        store = ProfileStore(server.url)
        store.command("PING")
    with pytest.raises(StoreError):
        store.command("PING")


def test_a_server_that_cannot_start_says_where_its_reason_stands(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(StoreError, match=r"valkey\.log"):
        EmbeddedStore(tmp_path)


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most"):
        EmbeddedStore(tmp_path / ("deep" * 20))


def test_it_is_ready_when_it_has_read_its_folder(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store") as first:
        fill = "for i = 1, 200000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end"
        ProfileStore(first.url, timeout_s=60).command("EVAL", fill, 0)
    with EmbeddedStore(tmp_path / "store") as again:
        assert ProfileStore(again.url).command("DBSIZE") == 200_000
