"""A tiny run and its repository, for the verbs that serve it."""

from pathlib import Path

import pytest

from shortlist.serving.repository import build_repository
from tests.factories import make_bundle


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what serving needs of a trained run."""
    folder = tmp_path_factory.mktemp("run")
    make_bundle(folder / "bundle")
    return folder


@pytest.fixture(scope="session")
def repository(run: Path) -> Path:
    build_repository(run / "bundle", run.parent / "repository")
    return run.parent / "repository"
