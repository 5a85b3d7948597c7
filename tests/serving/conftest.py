"""One real Triton for all the tests that only ask it; those that kill things start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.triton import TritonInstall, find_triton
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def install() -> TritonInstall:
    return find_triton()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="session")
def repository(bundle: Path) -> Path:
    out = bundle.parent / "repository"
    build_repository(bundle, out, stages=True)
    return out


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Supervisor]:
    with Supervisor(repository, free_address(), instances=1) as supervisor:
        yield supervisor


@pytest.fixture
def client(served: Supervisor) -> Iterator[Client]:
    with Client(served.address.grpc) as connected:
        yield connected
