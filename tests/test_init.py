"""The public names load, and only when asked for."""

import subprocess
import sys

import pytest

import shortlist


@pytest.mark.parametrize("name", shortlist.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(shortlist, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cascades'"):
        _ = shortlist.Cascades


def test_a_client_loads_neither_torch_nor_faiss() -> None:
    code = "import sys, shortlist; shortlist.Client; print(sorted({'torch', 'faiss', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
