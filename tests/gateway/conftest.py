"""Gateways for tests: real ones, on loopback, with a log of events in a folder."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from shortlist.events.consumer import Consumer
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.gateway.keys import ROLES, make_key
from shortlist.gateway.run import running
from shortlist.gateway.settings import Settings
from shortlist.profiles import PATIENCE_MS, PROFILES_URL
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from tests.factories import make_bundle

CHROMIUM = "/usr/bin/chromium"
NOBODY = "127.0.0.1:9"  # where no Triton answers
Start = Callable[..., httpx.Client]


@pytest.fixture(scope="session", autouse=True)
def patient_with_profiles() -> Iterator[None]:
    """A gateway waits for its store as long as a busy machine takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shortlist.gateway.people.PATIENCE", 20.0)
        yield


@contextmanager
def client_of(**settings: object) -> Iterator[httpx.Client]:
    """A client of a gateway of these settings, which is started."""
    given = {"port": 0, "grpc": NOBODY, "rate": 1e6, "burst": 10**6, **settings}
    with (
        running(Settings(**given)) as url,  # type: ignore[arg-type]
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def start() -> Iterator[Start]:
    """Start gateways that end with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(client_of(**settings))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `client`'s events."""
    return tmp_path_factory.mktemp("log") / "events"


@pytest.fixture(scope="module")
def client(log: Path) -> Iterator[httpx.Client]:
    """Of a gateway without keys, Triton or store."""
    with client_of(events=str(log)) as connected:
        yield connected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gateways with keys keep their files."""
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    """A key of each role; their file is keys.jsonl."""
    return {role: make_key(role, folder / "keys.jsonl") for role in ROLES}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running_store:
        yield running_store


@dataclass(frozen=True)
class Site:
    """All of it: Triton with live profiles, a consumer, a store, and the gateway in front."""

    url: str
    log: Path
    supervisor: Supervisor


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A small bundle, served, whose items have titles that would be markup if a page let them."""
    folder = tmp_path_factory.mktemp("site")
    build_repository(make_bundle(folder / "bundle"), folder / "repository")
    LocalLog(folder / "events").close()
    titles = {f"item-{n}": f"<img src=x onerror=alert(1)> & {n}" for n in range(300)}
    with ExitStack() as stack:
        store = stack.enter_context(EmbeddedStore(folder / "store"))
        environment = {PROFILES_URL: store.url, PATIENCE_MS: "20000"}  # a busy machine is no matter here
        supervisor = Supervisor(folder / "repository", free_address(), instances=1, environment=environment)
        stack.enter_context(supervisor)
        stack.enter_context(consuming(folder / "events", store))
        settings = Settings(supervisor.address.grpc, events=str(folder / "events"), profiles=store.url, port=0)
        url = stack.enter_context(running(replace(settings, titles=titles)))
        yield Site(url, folder / "events", supervisor)


@contextmanager
def consuming(log: Path, store: EmbeddedStore) -> Iterator[None]:
    """A consumer of the log, in a thread."""
    source, profiles = LocalSource(log), ProfileStore(store.url)
    consumer = Consumer(source, profiles, lambda item: [b"music"])
    thread = threading.Thread(target=consumer.run)
    thread.start()
    yield
    consumer.stop()
    thread.join()
    source.close()
    profiles.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium, without a window. While it runs, no other test of this process may run an event loop."""
    expect.set_options(timeout=60_000)  # milliseconds, on a busy machine
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
