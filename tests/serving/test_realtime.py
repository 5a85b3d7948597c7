"""The parts of real time on one machine: where they can be, and where not. What they do is tested through `serve`."""

import socket
import time
from pathlib import Path

import psutil
import pytest

from shortlist.errors import ConfigError, ServerError
from shortlist.profiles.store import ProfileStore
from shortlist.serving.realtime import Realtime


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


def test_a_part_that_starts_again_takes_the_bundle_of_then(bundle: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.symlink_to(bundle)
    bundles = iter([bundle])
    with Realtime(tmp_path / "folder", lambda: next(bundles, newer)):
        (first,) = consumers()
        assert str(bundle) in first.cmdline()
        first.kill()
        until = time.monotonic() + 60
        while not any(str(newer) in c.cmdline() for c in consumers()):
            assert time.monotonic() < until
            time.sleep(0.05)


def consumers() -> list[psutil.Process]:
    """Processes of ours that consume events."""
    children = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [c for c in children if {"events", "consume"} <= set(c.cmdline())]
