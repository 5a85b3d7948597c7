"""`shortlist serve --realtime`: an event posted to its gateway changes the next slate, whatever is killed."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.serve import serve
from shortlist.errors import ConfigError, ServerError
from shortlist.profiles.embedded import EmbeddedStore, free_port
from shortlist.profiles.layout import recent
from shortlist.profiles.store import ProfileStore
from shortlist.serving.client import Client, Recommendation
from shortlist.serving.process import free_address

APP = typer.Typer()
APP.command()(serve)
RUN = "import typer; from shortlist.cli.serve import serve; typer.run(serve)"
PATIENCE = 60.0  # seconds that something may take on a busy machine


@dataclass
class Service:
    """A running `shortlist serve --realtime`."""

    process: "subprocess.Popen[str]"
    grpc: str
    metrics: str
    gateway: str
    consumer: str

    @property
    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, words: str) -> psutil.Process:
        """The process whose command line has these words, once there is one."""

        def found() -> psutil.Process | None:
            for process in self.family:
                with suppress(psutil.NoSuchProcess):  # also one that has ended and still has to be waited for
                    if words in " ".join(process.cmdline()[:9]):
                        return process
            return None

        return seconds_later(found)

    @property
    def store(self) -> psutil.Process:
        return self.part("valkey-server")

    def ask(self, user: str, **options: Any) -> Recommendation:
        with Client(self.grpc) as client:
            return client.recommend(user, **options)

    def post(self, user: str, *items: str, type_: str = "like") -> None:
        """Tell the gateway of events, until it takes them."""
        now = time.time_ns()
        events = [
            {"event_id": f"{now}-{i}", "user_id": user, "item_id": i, "type": type_, "timestamp_ms": now // 1_000_000}
            for i in items
        ]
        body, kind = json.dumps({"events": events}).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.gateway + "/v1/events", body, kind)) as answer:
            assert json.loads(answer.read())["accepted"] == len(items)

    def reflects(self, user: str, version: int) -> Recommendation:
        """The first answer with so many events in it."""

        def answer() -> Recommendation | None:
            found = self.ask(user, trace=True)
            return found if found.trace and found.trace["profile"]["version"] >= version else None

        return seconds_later(answer)

    def counted(self, metric: str, url: str = "") -> float:
        with urllib.request.urlopen(url or self.metrics, timeout=PATIENCE) as page:
            found = re.search(rf"^{re.escape(metric)} (\S+)$", page.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


def seconds_later(what: Callable[[], Any]) -> Any:
    """What it gives as soon as it gives something."""
    until = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def start(repository: Path, folder: Path) -> Service:
    address = free_address()
    ports = ["--grpc-port", address.grpc_port, "--metrics-port", address.metrics_port, "--gateway-port", free_port()]
    ports += ["--consumer-metrics-port", free_port()]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN,
            str(repository),
            "--instances",
            "1",
            "--profiles-ms",
            "500",
            "--realtime",
            str(folder),
            *map(str, ports),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    places = {}
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            break
        name, _, place = line.partition(" ")
        places[name.lower()] = place.strip()
    return Service(process, places["grpc"], places["metrics"], places["gateway"], places["consumer"])


@pytest.fixture(scope="module")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = start(repository, tmp_path_factory.mktemp("rt"))
    yield running
    running.process.terminate()
    running.process.communicate(timeout=PATIENCE)


def test_an_event_changes_the_next_slate(service: Service) -> None:
    before = service.ask("user-1")
    service.post("user-1", *before.ids[:3])
    after = service.reflects("user-1", 3)
    assert after.status == "full"
    assert not set(before.ids[:3]) & set(after.ids)


def test_what_is_disliked_goes_away(service: Service) -> None:
    before = service.ask("user-2")
    service.post("user-2", before.ids[0], type_="dislike")
    assert before.ids[0] not in service.reflects("user-2", 1).ids


def test_reads_and_freshness_are_counted(service: Service) -> None:
    service.post("user-3", "item-5")
    service.reflects("user-3", 1)
    service.post("user-3", "item-6")
    service.reflects("user-3", 2)
    assert seconds_later(lambda: service.counted("shortlist_freshness_seconds_count"))
    assert seconds_later(lambda: service.counted('shortlist_profile_reads_total{outcome="found"}'))
    assert seconds_later(lambda: service.counted("shortlist_profile_read_seconds_count"))


def test_the_consumer_has_metrics_where_the_start_up_lines_say(service: Service) -> None:
    service.post("user-6", "item-5")
    service.reflects("user-6", 1)
    applied = 'shortlist_events_total{outcome="applied"}'
    assert seconds_later(lambda: service.counted(applied, service.consumer))


def test_a_store_that_hangs_delays_nobody_and_is_found_again(service: Service) -> None:
    service.store.send_signal(signal.SIGSTOP)
    try:
        seconds_later(lambda: service.ask("user-4").status == "stale_profile")
        answers = [service.ask("user-4", deadline_ms=5000) for _ in range(20)]
    finally:
        service.store.send_signal(signal.SIGCONT)
    assert {answer.status for answer in answers} == {"stale_profile"}
    seconds_later(lambda: service.ask("user-4").status == "full")
    assert seconds_later(lambda: service.counted('shortlist_requests_total{status="stale_profile"}'))


def test_a_killed_store_comes_back_with_what_it_knew(service: Service) -> None:
    service.post("user-5", "item-5")
    service.reflects("user-5", 1)
    service.store.kill()
    seconds_later(lambda: service.ask("user-5").status == "stale_profile")
    service.post("user-5", "item-6")
    assert service.reflects("user-5", 2).status == "full"


@pytest.mark.parametrize("part", ["events consume", "gateway --grpc"])
def test_a_killed_process_comes_back(service: Service, part: str) -> None:
    killed = service.part(part)
    killed.kill()
    assert seconds_later(lambda: service.part(part).pid != killed.pid)


def test_it_ends_whole_and_keeps_what_it_knows(repository: Path, tmp_path: Path) -> None:
    first = start(repository, tmp_path)
    first.post("user-1", "item-5")
    first.reflects("user-1", 1)
    family = first.family
    first.process.send_signal(signal.SIGINT)
    said = first.process.communicate(timeout=PATIENCE)[0]
    assert (first.process.returncode, said) == (0, "stopped\n")
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    with EmbeddedStore(tmp_path / "store") as store:
        (blob,) = ProfileStore(store.url).read([b"user-1"])
    assert blob
    assert recent(blob).positives == [b"item-5"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--profiles", "localhost:6379"], "--profiles"),
        (["--profiles", "valkey://a:b:c/0"], "--profiles"),
        (["--profiles", "valkey://localhost/0", "--realtime", "x"], "--profiles"),
        (["--realtime", "x", "--tls-cert", "a.pem", "--tls-key", "b.pem"], "--realtime"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(repository: Path, options: list[str], field: str) -> None:
    failed = CliRunner().invoke(APP, [str(repository), *options]).exception
    assert isinstance(failed, ConfigError)
    assert str(failed).startswith(field)


def test_a_taken_gateway_port_is_refused_before_anything_starts(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.serving.realtime.Realtime.start", lambda _: pytest.fail("something starts"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--realtime", str(tmp_path / "rt"), "--gateway-port", str(taken.getsockname()[1])]
        failed = CliRunner().invoke(APP, [str(repository), *options]).exception
    assert isinstance(failed, ServerError)
    assert str(failed).startswith("--gateway-port")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("--grpc-port", "--gateway-port"),
        ("--grpc-port", "--consumer-metrics-port"),
        ("--metrics-port", "--consumer-metrics-port"),
        ("--gateway-port", "--consumer-metrics-port"),
    ],
)
def test_a_port_that_is_named_twice_is_refused_before_anything_starts(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    monkeypatch.setattr("shortlist.serving.realtime.Realtime.start", lambda _: pytest.fail("something starts"))
    names = ("--grpc-port", "--metrics-port", "--gateway-port", "--consumer-metrics-port")
    ports = {name: free_port() for name in names}
    ports[other] = ports[one]
    said = [word for name, port in ports.items() for word in (name, str(port))]
    failed = CliRunner().invoke(APP, [str(repository), "--realtime", str(tmp_path / "rt"), *said]).exception
    assert isinstance(failed, ServerError)
    assert str(failed) == f"{other} = {ports[other]}: is {one} already; choose another"
