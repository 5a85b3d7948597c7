"""Damaged files, a full disk and clients that vanish: refused with a reason, and the server goes on.

What is killed or stopped is in `test_supervisor` and `test_versions`, ports in use in `test_process`.
"""

import itertools
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shortlist.bundle import MANIFEST, Bundle
from shortlist.errors import BundleError, ServerError
from shortlist.serving.client import Client
from shortlist.serving.deploy import wait_until_served
from shortlist.serving.process import free_address
from shortlist.serving.releases import releases
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from tests.serving.stand_in import seconds_until

EXPORT = [sys.executable, "-m", "shortlist.cli.main", "export"]
SMALL = 200  # bytes that a file may have on a disk that is nearly full: less than any configuration has


@pytest.fixture(scope="module")
def steady(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server to which damaged versions are added."""
    repository = tmp_path_factory.mktemp("steady") / "repository"
    build_repository(bundle, repository)
    with Supervisor(repository, free_address(), instances=1) as supervisor:
        yield supervisor


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_flipped_byte_in_any_file_of_a_bundle_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    names = [*Bundle.open(bundle).files, MANIFEST]
    told = []
    for name in names:
        flip(shutil.copytree(bundle, tmp_path / name) / name)
        with pytest.raises(BundleError) as refused:
            Bundle.open(tmp_path / name)
        told.append(name if f"{tmp_path / name / name}: " in str(refused.value) else str(refused.value))
    assert told == names


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("table.npy", flip, "table.npy: does not match its checksum"),
        ("index.faiss", truncate, "index.faiss: has "),
        ("ranker.onnx", Path.unlink, "ranker.onnx: is missing"),
    ],
)
def test_a_damaged_version_is_refused_and_the_old_one_goes_on(
    steady: Supervisor, name: str, harm: Callable[[Path], None], reason: str
) -> None:
    model = steady.repository / "cascade"
    number = releases(steady.repository)[0].number + 1
    staged = shutil.copytree(model / "1", steady.repository / ".staged")
    harm(staged / "bundle" / name)
    staged.rename(model / str(number))
    with pytest.raises(ServerError) as refused:
        wait_until_served(steady.repository, number, lambda _: None)
    assert f"refused version {number}, version 1 goes on" in str(refused.value)
    assert reason in str(refused.value)
    with Client(steady.address.grpc) as client:
        assert client.recommend("user-0").version == "1"


def test_a_disk_that_is_full_is_a_clear_error_and_leaves_nothing_behind(bundle: Path, tmp_path: Path) -> None:
    def nearly_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))

    done = subprocess.run(
        [*EXPORT, str(bundle), "--out", str(tmp_path / "out")],
        preexec_fn=nearly_full,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{tmp_path}/out: cannot write the repository (File too large)" in done.stderr.replace("\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def conversation(served: Supervisor) -> bytes:
    """All that a client sends for one request, from its first byte on."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:
        relay = threading.Thread(target=_relay, args=(door, served.address.grpc_port, heard))
        relay.start()
        with Client(f"127.0.0.1:{door.getsockname()[1]}") as client:
            assert len(client.recommend("user-0")) == 10
        relay.join()
    return b"".join(heard)


def _relay(door: socket.socket, port: int, heard: list[bytes]) -> None:
    """Carry one connection to the server, and keep what the client says."""
    near, _ = door.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=_pump, args=(far, near, []))
        back.start()
        _pump(near, far, heard)
        back.join()


def _pump(source: socket.socket, target: socket.socket, heard: list[bytes]) -> None:
    with suppress(OSError):  # either end closes when it has what it wants
        while data := source.recv(65536):
            heard.append(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_clients_that_vanish_half_way_cost_nothing_that_lasts(
    served: Supervisor, client: Client, conversation: bytes
) -> None:
    server = psutil.Process(served.server.pid)
    assert len(client.recommend("user-0")) == 10
    before = server.num_fds()
    lengths = itertools.islice(itertools.cycle(range(1, len(conversation) + 1, max(1, len(conversation) // 40))), 200)
    for length in [*lengths, *[len(conversation)] * 50]:  # the last ones leave while their slate is being made
        with socket.create_connection(("127.0.0.1", served.address.grpc_port)) as connection:
            connection.sendall(conversation[:length])
    with Client(served.address.grpc) as late:  # connections are taken in turn, so all others were taken before it
        assert len(late.recommend("user-0")) == 10
    seconds_until(lambda: server.num_fds() <= before + 2)
