"""A stage model compiles at its start what its requests need, and nothing that only other stages use."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PROGRAM = """
import json, sys, types
from numba.core import event

utils = types.ModuleType("triton_python_backend_utils")
utils.Tensor = lambda name, values: values
utils.deserialize_bytes_tensor = utils.serialize_byte_tensor = None
sys.modules[utils.__name__] = utils
found = event.RecordingListener()
event.register("numba:compile", found)

from shortlist.serving import stage_models
from shortlist.types import Request

def compiled():
    names = {e.data["dispatcher"].py_func.__name__ for _, e in found.buffer if hasattr(e.data["dispatcher"], "py_func")}
    found.buffer.clear()
    return sorted(names)

folder, name = sys.argv[1:]
model = getattr(stage_models, name)()
model.initialize({"model_repository": folder, "model_version": "1"})
first = compiled()
model.answer([*model.samples(), *model.samples()])
print(json.dumps([first, compiled()]))
"""


@cache
def compiled(repository: Path, name: str) -> list[list[str]]:
    """What was compiled at the start, and what by another batch."""
    command = [sys.executable, "-c", PROGRAM, str(repository / "retrieve"), name]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_NUM_THREADS": "1"}
    )
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["RetrieveModel", "FilterModel", "RankModel", "DiversifyModel"])
def test_requests_compile_nothing(name: str, repository: Path) -> None:
    assert compiled(repository, name)[1] == []


def test_what_diversifies_does_not_compile_the_search(repository: Path) -> None:
    searches, diversifies = (set(compiled(repository, name)[0]) for name in ("RetrieveModel", "DiversifyModel"))
    assert {"pool_of", "choose_from"} <= searches - diversifies
    assert "_mmr" in diversifies - searches
