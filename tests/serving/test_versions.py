"""A newer version takes over, or is refused while the one before goes on, whatever is killed afterwards."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shortlist.errors import ShortlistError
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.status import statuses
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.versions import version_folders
from tests.serving.stand_in import WATCH, answering, answers, seconds_until, stand_in_at, write_version

WARMING_UP = "class TritonPythonModel:\n    def initialize(self, args):\n        "
FAILING = {
    "an error while it loads": "raise RuntimeError('broken on purpose')",
    "an error while it warms up": f"{WARMING_UP}1 / 0",
    "a crash while it warms up": f"import os\n{WARMING_UP}os.abort()",
}
SERVE = """
import sys
from pathlib import Path
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
with Supervisor(Path(sys.argv[1]), free_address(), instances=1) as supervisor:
    print(supervisor.server.pid, flush=True)
    supervisor.wait(600)
"""


@pytest.fixture(scope="module")
def events() -> list[str]:
    return []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, events: list[str]) -> Iterator[Supervisor]:
    """A server to which every test adds versions."""
    repository = stand_in_at(tmp_path_factory.mktemp("versions"))
    with Supervisor(repository, free_address(), instances=2, watch=WATCH, on_event=events.append) as supervisor:
        yield supervisor


def publish(supervisor: Supervisor, source: str | None = None) -> str:
    """The next version; by default one that answers its number."""
    number = max(map(int, version_folders(supervisor.repository / "cascade"))) + 1
    write_version(supervisor.repository, number, source or answering(str(number)))
    return str(number)


def served(supervisor: Supervisor) -> str:
    with Client(supervisor.address.grpc, timeout=3) as client:
        return client.recommend("user-0").version


def served_now(supervisor: Supervisor) -> str:
    try:
        return served(supervisor)
    except ShortlistError:
        return ""


def refusal(supervisor: Supervisor, number: str) -> str:
    (status,) = statuses(supervisor.repository)
    return status.refused[number].why if number in status.refused else ""


def publish_refused(supervisor: Supervisor) -> str:
    number = publish(supervisor, FAILING["an error while it loads"])
    seconds_until(lambda: refusal(supervisor, number) != "")
    return number


def test_a_new_version_takes_over_without_a_failure(shared: Supervisor) -> None:
    seen: list[str] = []
    with Client(shared.address.grpc) as client:
        number = publish(shared)
        seconds_until(lambda: seen.extend(client.recommend("user-0").ids) or seen[-1] == number)
        seen += client.recommend("user-0").ids
    assert seen[0] != number
    assert seen[seen.index(number) :] == [number] * seen.count(number)


def test_an_answer_names_the_version_that_gave_it(shared: Supervisor) -> None:
    number = publish(shared)
    seconds_until(lambda: served(shared) == number)
    with Client(shared.address.grpc) as client:
        answer = client.recommend("user-0")
    assert answer.ids == [answer.version]


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
def test_a_new_version_that_does_not_load_leaves_the_old_one_serving(
    shared: Supervisor, events: list[str], source: str
) -> None:
    before, restarts = served(shared), shared.restarts
    number = publish(shared, source)
    seconds_until(lambda: refusal(shared, number) != "")
    assert served(shared) == before
    time.sleep(1.5)
    assert sum(f"REFUSED version {number}" in event for event in events) == 1
    assert shared.restarts == restarts


def kill_a_process(supervisor: Supervisor) -> None:
    max(supervisor.server.stubs(), key=lambda stub: (stub.create_time(), stub.pid)).kill()


def kill_the_server(supervisor: Supervisor) -> None:
    os.kill(supervisor.server.pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_a_process, kill_the_server])
def test_after_a_refusal_what_is_killed_comes_back_with_the_old_version(
    shared: Supervisor, kill: Callable[[Supervisor], None]
) -> None:
    before, repairs = served(shared), shared.reloads + shared.restarts
    publish_refused(shared)
    kill(shared)
    with Client(shared.address.grpc, timeout=3) as client:
        seconds_until(lambda: shared.reloads + shared.restarts > repairs and answers(client))
    assert served(shared) == before


def test_a_version_that_never_ends_loading_does_not_keep_a_dead_server_from_repair(
    shared: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, restarts = served(shared), shared.restarts
    monkeypatch.setattr(shared, "watch", replace(WATCH, silence=2.0))
    number = publish(shared, "import time; time.sleep(600)")
    seconds_until(lambda: [status.loading for status in statuses(shared.repository)] == [number])
    for stub in shared.server.stubs():
        stub.suspend()
    seconds_until(lambda: shared.restarts > restarts and served_now(shared) == before)
    assert "does not load" in refusal(shared, number)


def test_a_refused_version_is_tried_again_when_its_folder_is_replaced(shared: Supervisor) -> None:
    number = publish_refused(shared)
    shutil.rmtree(shared.repository / "cascade" / number)
    write_version(shared.repository, int(number), answering("mended"))
    seconds_until(lambda: served(shared) == number)
    assert refusal(shared, number) == ""


def test_the_processes_of_the_old_version_end(shared: Supervisor) -> None:
    old = shared.server.stubs()
    number = publish(shared)
    seconds_until(lambda: served(shared) == number)
    assert psutil.wait_procs(old, timeout=60)[1] == []


def test_a_request_in_flight_is_answered_by_the_version_that_took_it(shared: Supervisor, tmp_path: Path) -> None:
    before, answered = served(shared), list[str]()

    asked = f"wait for {tmp_path}/end"

    def ask() -> None:
        with Client(shared.address.grpc, timeout=120) as client:
            answered.append(client.recommend(asked).version)

    asking = threading.Thread(target=ask)
    asking.start()
    seconds_until(lambda: asked in shared.server.log_tail)
    number = publish(shared)
    seconds_until(lambda: served(shared) == number)
    assert answered == []
    (tmp_path / "end").touch()
    asking.join()
    assert answered == [before]


def test_the_newest_version_that_loads_is_served_from_the_start(tmp_path: Path) -> None:
    repository, events = stand_in_at(tmp_path), list[str]()
    write_version(repository, 2, FAILING["an error while it loads"])
    with Supervisor(repository, free_address(), instances=1, on_event=events.append) as supervisor:
        assert served(supervisor) == "1"
    assert any("REFUSED version 2" in event and "broken on purpose" in event for event in events)


def test_a_server_that_stopped_says_nothing_any_more(tmp_path: Path) -> None:
    repository = stand_in_at(tmp_path)
    with Supervisor(repository, free_address(), instances=1):
        assert [status.serving for status in statuses(repository)] == ["1"]
    assert list(repository.iterdir()) == [repository / "cascade"]


@pytest.mark.parametrize("harm", [None, "import time; time.sleep(600)"], ids=["while it serves", "while it loads"])
def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path, harm: str | None) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(stand_in_at(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        server = psutil.Process(int(parent.stdout.readline()))
    (prefix,) = re.findall("shm-region-prefix-name=([^ ]+)", " ".join(server.cmdline()))
    if harm:
        write_version(tmp_path, 2, harm)
        seconds_until(lambda: len(server.children()) == 2)
    family = [server, *server.children()]
    assert [status.serving for status in statuses(tmp_path)] == ["1"]
    parent.kill()
    parent.wait()
    alive = psutil.wait_procs(family, timeout=60)[1]
    for process in alive:
        process.kill()
    assert alive == []
    assert statuses(tmp_path) == []
    seconds_until(lambda: not list(Path("/dev/shm").glob(f"{prefix}*")))
