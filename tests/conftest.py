"""Settings that every test shares."""

from pathlib import Path

import pytest
from hypothesis import settings

from shortlist.config import Config
from shortlist.training.run import train
from tests.planted import small_config, write_walks

# Numba compiles on first use, which no per-example deadline survives.
settings.register_profile("shortlist", deadline=None, derandomize=True)
settings.load_profile("shortlist")


@pytest.fixture(scope="session")
def planted_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Configuration of a small log with structure worth learning."""
    return small_config(write_walks(tmp_path_factory.mktemp("walks") / "walks.txt"))


@pytest.fixture(scope="session")
def planted_run(planted_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on it. Tests may add to the folder, not change what is there."""
    return train(planted_config, tmp_path_factory.mktemp("runs") / "walks", show_progress=False)
