"""A real store for the tests of profiles."""

from collections.abc import Iterator

import pytest

from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.store import ProfileStore


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A running store, shared by all tests that do not harm it."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def store(server: EmbeddedStore) -> Iterator[ProfileStore]:
    """A connection to the running store, emptied."""
    connection = ProfileStore(server.url)
    connection.command("FLUSHALL")
    yield connection
    connection.close()
