"""A thousand malformed and borderline requests, a hundred thousand by `make fuzz`: nothing falls, all get answers."""

import subprocess
import sys

import pytest

from shortlist.serving.client import Client
from shortlist.serving.supervisor import Supervisor
from tests.serving.fuzz import memory, request, run


def test_a_request_is_a_function_of_seed_and_number() -> None:
    once = [request(0, number) for number in range(100)]
    assert once == [request(0, number) for number in range(100)]
    assert len({*once, *(request(1, number) for number in range(100))}) > 150


def test_every_request_gets_a_slate_or_an_error_that_says_why(served: Supervisor) -> None:
    found = run(served.address.grpc, 0, range(1000))
    assert found.faults == []
    assert found.answers.total() == 1000
    assert {"slate, full", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED"} <= found.answers.keys()


def test_no_process_ends(served: Supervisor, client: Client) -> None:
    before = [stub.pid for stub in served.server.stubs()], served.restarts, served.reloads
    run(served.address.grpc, 1, range(300))
    assert ([stub.pid for stub in served.server.stubs()], served.restarts, served.reloads) == before
    assert client.recommend("user-0").status == "full"


REFUSES = """
import gc, sys, types, weakref
utils = types.ModuleType("triton_python_backend_utils")
utils.TritonError, utils.InferenceResponse = lambda *_: None, lambda **_: None
utils.TritonError.CANCELLED = utils.TritonError.INVALID_ARG = utils.TritonError.INTERNAL = 0
utils.deserialize_bytes_tensor = utils.serialize_byte_tensor = None
sys.modules[utils.__name__] = utils
from shortlist.errors import RequestError
from shortlist.serving.stage_models import RankModel

class Given:
    pass

class Refuses(RankModel):
    def read(self, request):
        try:
            raise ValueError
        except ValueError:
            raise RequestError("k = 0: an int from 1 to 50 is allowed") from None

gc.disable()
requests = [Given(), Given()]
left = [weakref.ref(request) for request in requests]
Refuses().execute(requests)
del requests
assert [request() for request in left] == [None, None]
"""


def test_a_refused_request_is_let_go_without_garbage_collection() -> None:
    subprocess.run([sys.executable, "-c", REFUSES], check=True)


@pytest.mark.slow
def test_memory_stays_flat(served: Supervisor) -> None:
    run(served.address.grpc, 2, range(10_000))
    before = memory(served)
    run(served.address.grpc, 2, range(10_000, 30_000))
    after = memory(served)
    assert after["server"] < 1.2 * before["server"] + 20
    assert after["stub 0"] < 1.1 * before["stub 0"]
    assert after["shared"] < 1.2 * before["shared"] + 20
