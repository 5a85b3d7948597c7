"""Errors say what to do in words that work where they are read."""

import shlex
import tomllib
from pathlib import Path

import pytest

from shortlist import errors
from shortlist.errors import install_hint


def test_the_hint_of_a_clone_names_it_and_an_extra_that_it_has() -> None:
    folder, _, extra = shlex.split(install_hint("gpu"))[-1].partition("[")
    project = tomllib.loads((Path(folder) / "pyproject.toml").read_text())["project"]
    assert extra.removesuffix("]") in project["optional-dependencies"]


def test_the_hint_of_an_installed_package_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    assert install_hint("gpu") == "pip install 'shortlist[gpu]'"
