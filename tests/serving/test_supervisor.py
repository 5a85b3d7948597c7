"""What is killed comes back. Each test has a server of its own; most serve a stand-in that starts in a second."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.errors import ServerError, ShortlistError
from shortlist.serving import versions
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE
from tests.serving.stand_in import LIMIT, WATCH, answers, seconds_until, stand_in_at


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A repository whose `cascade` answers its own version."""
    return stand_in_at(tmp_path)


@pytest.fixture
def running(stand_in: Path) -> Iterator[Supervisor]:
    """A server for one test, which may change it for good."""
    with Supervisor(stand_in, free_address(), instances=2, watch=WATCH) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server for all tests after which it is as it was."""
    with Supervisor(stand_in_at(tmp_path_factory.mktemp("lasting")), free_address(), instances=2, watch=WATCH) as it:
        yield it


def newest_stub(supervisor: Supervisor) -> psutil.Process:
    """Not one that is retiring after an earlier repair."""
    return max(supervisor.server.stubs(), key=lambda stub: (stub.create_time(), stub.pid))


def kill_one_stub(supervisor: Supervisor) -> None:
    newest_stub(supervisor).kill()


def kill_all_stubs(supervisor: Supervisor) -> None:
    for stub in supervisor.server.stubs():
        stub.kill()


def freeze_one_stub(supervisor: Supervisor) -> None:
    newest_stub(supervisor).suspend()


def kill_server(supervisor: Supervisor) -> None:
    os.kill(supervisor.server.pid, signal.SIGKILL)


def end_server(supervisor: Supervisor) -> None:
    os.kill(supervisor.server.pid, signal.SIGTERM)


def freeze_server(supervisor: Supervisor) -> None:
    os.kill(supervisor.server.pid, signal.SIGSTOP)


def crash_server(supervisor: Supervisor) -> None:
    """Triton 2.51 divides by zero when it is asked for the top classes of a string output."""
    with triton.InferenceServerClient(supervisor.address.grpc) as connection:
        inputs = [triton.InferInput(s.name, [1, 1], "BYTES") for s in CASCADE.inputs]
        for tensor in inputs:
            tensor.set_data_from_numpy(np.full((1, 1), b"x", np.object_))
        with suppress(InferenceServerException):
            connection.infer("cascade", inputs, outputs=[triton.InferRequestedOutput("item_id", class_count=2)])


@pytest.mark.parametrize(
    "harm", [crash_server, kill_one_stub, kill_all_stubs, freeze_one_stub, kill_server, end_server, freeze_server]
)
def test_service_is_back_within_ten_seconds(lasting: Supervisor, harm: Callable[[Supervisor], None]) -> None:
    with Client(lasting.address.grpc, timeout=3) as client:
        assert answers(client)
        repairs = lasting.reloads + lasting.restarts
        harm(lasting)
        seconds_until(lambda: lasting.reloads + lasting.restarts > repairs and answers(client))


def test_a_real_cascade_is_back_within_ten_seconds(repository: Path) -> None:
    started = time.monotonic()
    with (
        Supervisor(repository, free_address(), instances=2) as supervisor,
        Client(supervisor.address.grpc, timeout=3) as client,
    ):
        limit = max(LIMIT, 2 * (time.monotonic() - started))  # a machine that starts it slowly also repairs it slowly
        kill_one_stub(supervisor)
        seconds_until(lambda: supervisor.reloads == 1 and answers(client), limit)
        kill_server(supervisor)
        seconds_until(lambda: supervisor.restarts == 1 and answers(client), limit)


def test_living_instances_answer_while_a_dead_one_is_replaced(lasting: Supervisor) -> None:
    reloads, over = lasting.reloads, threading.Event()
    answered: list[float] = []

    def ask() -> None:
        with Client(lasting.address.grpc, timeout=3) as client:
            while not over.is_set():
                with suppress(ShortlistError):
                    client.recommend("user-0")
                    answered.append(time.time())

    threads = [threading.Thread(target=ask) for _ in range(12)]  # the dead one keeps some of them waiting
    for thread in threads:
        thread.start()
    kill_one_stub(lasting)
    killed = time.time()
    with Client(lasting.address.grpc, timeout=3) as client:
        seconds_until(lambda: lasting.reloads > reloads and answers(client, 4))
    over.set()
    for thread in threads:
        thread.join()
    replaced = newest_stub(lasting).create_time() + 0.2  # no Python process answers earlier
    assert [moment for moment in answered if killed < moment < replaced]


def test_a_hung_instance_is_replaced(lasting: Supervisor) -> None:
    reloads = lasting.reloads
    with Client(lasting.address.grpc, timeout=0.2) as client:
        for _ in range(2):  # one for each instance
            with pytest.raises(ShortlistError):
                client.recommend("sleep 600")
    with Client(lasting.address.grpc, timeout=1) as client:
        seconds_until(lambda: lasting.reloads > reloads and answers(client))


def test_a_busy_server_is_left_alone(lasting: Supervisor) -> None:
    repairs = (lasting.reloads, lasting.restarts)

    def work() -> None:
        with Client(lasting.address.grpc) as client:
            until = time.monotonic() + 5
            while time.monotonic() < until:
                client.recommend("sleep 0.3")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (lasting.reloads, lasting.restarts) == repairs


def test_it_recovers_in_a_read_only_repository(lasting: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(versions.os, "utime", refused)
    with Client(lasting.address.grpc, timeout=3) as client:
        reloads = lasting.reloads
        kill_one_stub(lasting)
        seconds_until(lambda: lasting.reloads > reloads and answers(client))


def test_a_model_that_does_not_load_gives_triton_s_reason(stand_in: Path) -> None:
    (stand_in / "cascade" / "1" / "model.py").write_text("import no_such_module_anywhere")
    supervisor = Supervisor(stand_in, free_address(), instances=1)
    with pytest.raises(ServerError, match="no_such_module_anywhere"):
        supervisor.start()
    assert not supervisor.server.alive


def test_an_empty_repository_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"has no model 'cascade'.*shortlist export"):
        Supervisor(tmp_path, free_address()).start()


def test_a_version_without_its_program_is_refused_before_anything_starts(stand_in: Path) -> None:
    (stand_in / "cascade" / "2").mkdir()
    with pytest.raises(ServerError, match=r"2: has no model\.py; remove the folder"):
        Supervisor(stand_in, free_address()).start()


def test_stopping_is_quick_and_leaves_nothing_behind(running: Supervisor) -> None:
    processes = [psutil.Process(running.server.pid), *running.server.stubs()]
    kill_one_stub(running)
    started = time.monotonic()
    running.stop()
    assert time.monotonic() - started < 4
    gone, _ = psutil.wait_procs(processes, timeout=3)
    assert len(gone) == len(processes)


def test_requests_in_flight_are_answered_when_it_stops(running: Supervisor) -> None:
    outcome: list[int] = []

    def ask() -> None:
        with Client(running.address.grpc) as client:
            outcome.append(len(client.recommend("sleep 0.6")))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)
    running.stop()
    asking.join()
    assert outcome == [1]


def test_a_vanished_repository_is_reported_and_repaired_when_it_returns(running: Supervisor, stand_in: Path) -> None:
    shutil.move(stand_in / "cascade", stand_in / ".away")
    kill_server(running)
    time.sleep(1)
    shutil.move(stand_in / ".away", stand_in / "cascade")
    with Client(running.address.grpc, timeout=3) as client:
        seconds_until(lambda: answers(client))
