"""What is killed comes back. Each test has a server of its own; most serve a stand-in that starts in a second."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.errors import ServerError, ShortlistError
from shortlist.serving import versions
from shortlist.serving.client import Client
from shortlist.serving.process import free_address, is_dead
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


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds until service has to be back: ten, and more on a machine that starts a server slowly."""
    started = time.monotonic()
    with Supervisor(stand_in_at(tmp_path_factory.mktemp("timed")), free_address(), instances=2, watch=WATCH):
        return max(LIMIT, 5 * (time.monotonic() - started))


def instances(supervisor: Supervisor) -> list[psutil.Process]:
    """The processes that answer; none while they are being replaced. Others may be retiring after an earlier repair."""
    loaded = supervisor._loaded.get(CASCADE.name)
    return loaded.stubs if loaded else []


def is_whole(supervisor: Supervisor) -> bool:
    """Whether both instances live."""
    return [is_dead(stub) for stub in instances(supervisor)] == [False, False]


def kill_one_stub(supervisor: Supervisor) -> None:
    instances(supervisor)[0].kill()


def kill_all_stubs(supervisor: Supervisor) -> None:
    for stub in supervisor.server.stubs():
        stub.kill()


def freeze_one_stub(supervisor: Supervisor) -> None:
    instances(supervisor)[0].suspend()


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
def test_service_is_back_within_ten_seconds(
    lasting: Supervisor, harm: Callable[[Supervisor], None], limit: float
) -> None:
    with Client(lasting.address.grpc, timeout=3) as client:
        seconds_until(lambda: is_whole(lasting) and answers(client))
        repairs = lasting.reloads + lasting.restarts
        harm(lasting)
        seconds_until(lambda: lasting.reloads + lasting.restarts > repairs and answers(client), limit)


def test_a_real_cascade_is_back_within_ten_seconds(repository: Path) -> None:
    started = time.monotonic()
    with (
        Supervisor(repository, free_address(), instances=2) as supervisor,
        Client(supervisor.address.grpc, timeout=3) as client,
    ):
        limit = max(LIMIT, 4 * (time.monotonic() - started))  # a machine that starts it slowly also repairs it slowly
        reloads = supervisor.reloads
        kill_one_stub(supervisor)
        seconds_until(lambda: supervisor.reloads > reloads and answers(client), limit)
        restarts = supervisor.restarts
        kill_server(supervisor)
        seconds_until(lambda: supervisor.restarts > restarts and answers(client), limit)


def test_living_instances_answer_while_a_dead_one_is_replaced(lasting: Supervisor) -> None:
    over, answered = threading.Event(), list[int]()

    def ask() -> None:
        with Client(lasting.address.grpc, timeout=3) as client:
            while not over.is_set():
                with suppress(ShortlistError):
                    answered.append(int(client.recommend("who").ids[0]))

    threads = [threading.Thread(target=ask) for _ in range(12)]  # the dead one keeps some of them waiting
    for thread in threads:
        thread.start()
    seconds_until(lambda: is_whole(lasting) and bool(answered))
    reloads, (dead, other) = lasting.reloads, instances(lasting)
    dead.kill()
    answered.clear()
    with Client(lasting.address.grpc, timeout=3) as client:
        seconds_until(lambda: lasting.reloads > reloads and answers(client, 4))
    over.set()
    for thread in threads:
        thread.join()
    assert other.pid in answered  # it ends when all are replaced


def test_a_hung_instance_is_replaced(lasting: Supervisor) -> None:
    seconds_until(lambda: is_whole(lasting))
    reloads = lasting.reloads

    def ask(what: str) -> None:
        with Client(lasting.address.grpc, timeout=60) as client, pytest.raises(ShortlistError):
            client.recommend(what)

    asked = ("sleep 600 a", "sleep 600 b")  # one for each instance: the second is not of the first one's batch
    threads = [threading.Thread(target=ask, args=(what,)) for what in asked]
    for thread, what in zip(threads, asked, strict=True):
        thread.start()
        seconds_until(lambda what=what: what in lasting.server.log_tail)  # type: ignore[misc]
    with Client(lasting.address.grpc, timeout=1) as client:
        seconds_until(lambda: lasting.reloads > reloads and answers(client))
    for thread in threads:
        thread.join()


def test_a_busy_server_is_left_alone(stand_in: Path) -> None:
    def work(grpc: str) -> None:
        with Client(grpc, timeout=60) as client:
            until = time.monotonic() + 5
            while time.monotonic() < until:
                client.recommend("sleep 2")

    patient = replace(WATCH, canary_timeout=2.5)  # most canaries wait longer
    with Supervisor(stand_in, free_address(), instances=2, watch=patient) as busy:
        threads = [threading.Thread(target=work, args=(busy.address.grpc,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (busy.reloads, busy.restarts) == (0, 0)


def test_it_recovers_in_a_read_only_repository(lasting: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(versions.os, "utime", refused)
    seconds_until(lambda: is_whole(lasting))
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
    assert time.monotonic() - started < 15  # by itself Triton would take 30
    gone, _ = psutil.wait_procs(processes, timeout=60)
    assert len(gone) == len(processes)


def test_requests_in_flight_are_answered_when_it_stops(running: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome: list[int] = []
    monkeypatch.setattr(running.server, "stop", partial(running.server.stop, drain=20.0))  # on a busy machine

    def ask() -> None:
        with Client(running.address.grpc, timeout=60) as client:
            outcome.append(len(client.recommend("sleep 0.6")))

    asking = threading.Thread(target=ask)
    asking.start()
    seconds_until(lambda: "sleep 0.6" in running.server.log_tail)
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
