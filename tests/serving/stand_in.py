"""A model `cascade` that starts in a second and answers its own version: for tests of what keeps a server going."""

import time
from collections.abc import Callable
from pathlib import Path

from shortlist.errors import ShortlistError
from shortlist.serving.client import Client
from shortlist.serving.model_config import config_pbtxt
from shortlist.serving.tensors import CASCADE
from shortlist.serving.watch import Watch

STAND_IN = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        users = [pb_utils.get_input_tensor_by_name(r, "user_id").as_numpy()[0, 0] for r in requests]
        for user in users:
            if user.startswith((b"sleep ", b"wait for ")):
                print(user.decode(), flush=True)  # to the server's log
        time.sleep(max([float(user.split()[1]) for user in users if user.startswith(b"sleep ")], default=0))
        for user in users:
            if user.startswith(b"wait for "):
                while not os.path.exists(user[9:]):
                    time.sleep(0.01)
            item = str(os.getpid()) if user == b"who" else "ANSWER"
            texts = {"item_id": item.encode(), "status": b"full", "trace": b""}
            tensors = [pb_utils.Tensor(n, np.array([[v]], np.object_)) for n, v in texts.items()]
            tensors += [pb_utils.Tensor(n, np.ones((1, 1), np.float32)) for n in ("score", "propensity")]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
"""
WATCH = Watch(canary_every=0.5, canary_timeout=1.0)
LIMIT = 10.0  # seconds in which anything killed has to be back
PATIENCE = 60.0  # seconds that anything may take on a busy machine


def answering(word: str) -> str:
    """Source of a model that answers `word`."""
    return STAND_IN.replace("ANSWER", word)


def write_version(repository: Path, number: int, source: str) -> Path:
    """A version folder, which appears whole."""
    staged = repository / ".staged"
    staged.mkdir()
    (staged / "model.py").write_text(source)
    return staged.rename(repository / "cascade" / str(number))


def stand_in_at(folder: Path) -> Path:
    (folder / "cascade").mkdir()
    (folder / "cascade" / "config.pbtxt").write_text(config_pbtxt(CASCADE))
    write_version(folder, 1, answering("one"))
    return folder


def answers(client: Client, times: int = 8) -> bool:
    """Whether `times` requests in a row are answered (several, because each instance has its turn)."""
    try:
        return all(len(client.recommend("user-0")) > 0 for _ in range(times))
    except ShortlistError:
        return False


def seconds_until(condition: Callable[[], bool], limit: float = PATIENCE) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit, f"not within {limit} s"
        time.sleep(0.05)
    return time.monotonic() - started
