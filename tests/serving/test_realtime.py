"""The parts of real time on one machine: where they can be, and where not. What they do is tested through `serve`."""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shortlist.errors import ConfigError, ServerError
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore
from shortlist.serving.realtime import CONSUMER, EVENTS, STORE, UNTIL_THEN, Realtime


def test_a_taken_port_is_refused(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, Realtime(tmp_path, lambda: bundle) as live:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"--gateway-port = {port}: somebody listens"):
            live.open_gateway("127.0.0.1:1", port)


def test_a_file_is_no_folder(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold events"):
        Realtime(tmp_path / "file", lambda: bundle).start()


def test_a_folder_too_deep_for_a_socket_has_a_store(bundle: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    with Realtime(deep, lambda: bundle) as live:
        assert ProfileStore(live.store).read([b"nobody"]) == [None]


def test_the_consumer_goes_on_with_the_categories_of_a_new_bundle(bundle: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.symlink_to(bundle)
    served = [bundle]
    with Realtime(tmp_path / "folder", lambda: served[-1]):
        wait_until(lambda: any(str(bundle) in words(c) for c in consumers()))
        served.append(newer)
        wait_until(lambda: [str(newer) in words(c) for c in consumers()] == [True])


def test_a_consumer_that_cannot_go_on_is_told_once_and_left_alone(bundle: Path, tmp_path: Path) -> None:
    told: list[str] = []
    LocalLog(tmp_path / EVENTS).close()
    with (
        EmbeddedStore(tmp_path / STORE) as running,
        contextlib.closing(ProfileStore(running.url)) as store,
        contextlib.closing(LocalSource(tmp_path / EVENTS)) as log,
    ):
        store.commit(log.name, 0, None, 10_000, {})
    with Realtime(tmp_path, lambda: bundle, told.append) as live:
        wait_until(lambda: any(UNTIL_THEN in line for line in told))
        assert [live._why_anew(CONSUMER, live._parts[CONSUMER]) for _ in range(3)] == [""] * 3
    assert [sum(words in line for line in told) for words in ("error: ", UNTIL_THEN, "starting it again")] == [1, 1, 0]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def words(process: psutil.Process) -> list[str]:
    """Its command line; none once it has ended, waited for or not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def consumers() -> list[psutil.Process]:
    """Processes of ours that consume events."""
    return [child for child in psutil.Process().children() if {"events", "consume"} <= set(words(child))]
