"""Settings that every test shares."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from shortlist.config import Config
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import TTL_S, ProfileStore
from shortlist.training.run import train
from tests.planted import small_config, write_walks

# Numba compiles on first use, which no per-example deadline survives.
settings.register_profile("shortlist", deadline=None, derandomize=True)
settings.load_profile("shortlist")


@pytest.fixture(scope="session", autouse=True)
def patient_with_stores() -> Iterator[None]:
    """A store takes as long as a busy machine lets it, unless a test says how long it may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProfileStore.__init__, "__defaults__", (20.0, TTL_S))
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A store that runs, shared by the tests of a module that do not harm it."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def store(server: EmbeddedStore) -> Iterator[ProfileStore]:
    """A connection to the running store, emptied."""
    connection = ProfileStore(server.url)
    connection.command("FLUSHALL")
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def planted_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Configuration of a small log with structure worth learning."""
    return small_config(write_walks(tmp_path_factory.mktemp("walks") / "walks.txt"))


@pytest.fixture(scope="session")
def planted_run(planted_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on it. Tests may add to the folder, not change what is there."""
    return train(planted_config, tmp_path_factory.mktemp("runs") / "walks", show_progress=False)
