"""Who serves without live profiles has nothing to do with what they take."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from types import ModuleType

sys.modules["triton_python_backend_utils"] = ModuleType("triton_python_backend_utils")  # exists in Triton's stub alone
import shortlist.serving.model
from shortlist.cascade import Cascade
from shortlist.slates import SlateCache
from shortlist.types import Request

SlateCache(Cascade.load(Path(sys.argv[1])).recommend, 10).recommend([Request(b"user-0")])
heavy = {"fastapi", "msgspec", "uvicorn", "valkey", "confluent_kafka"}
ours = {"shortlist.events", "shortlist.gateway", "shortlist.profiles.live", "shortlist.profiles.store"}
print(sorted((heavy | ours) & sys.modules.keys()))
"""


def test_nothing_of_them_is_imported(bundle: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
