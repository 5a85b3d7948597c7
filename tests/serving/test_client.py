"""The clients: context managers, asyncio, ids of every kind, and how failures are told."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from shortlist.errors import DeadlineError, RequestError, ServerError
from shortlist.serving.client import AsyncClient, Client
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor


@pytest.fixture(scope="module")
def nowhere() -> str:
    """An address that nobody listens on."""
    return free_address().grpc


def test_iterating_gives_the_items_best_first(client: Client) -> None:
    answer = client.recommend("user-0", diversity=0.0)
    scores = [item.score for item in answer]
    assert scores == sorted(scores, reverse=True)
    assert all(item.propensity == 1 for item in answer)


@pytest.mark.parametrize("user", ["user-3", b"user-3"])
def test_ids_may_be_text_or_bytes(client: Client, user: str | bytes) -> None:
    assert client.recommend(user).ids == client.recommend("user-3").ids


def test_a_number_is_the_id_that_it_reads_as(client: Client) -> None:
    assert client.recommend(42, history=["item-1"]).ids == client.recommend("42", history=["item-1"]).ids


def test_numpy_ids_work(client: Client) -> None:
    assert client.recommend("user-0", exclude=np.array(["item-1", "item-2"])).ids


def test_asyncio_gives_the_same_answers(client: Client, served: Supervisor) -> None:
    async def ask() -> list[list[str]]:
        async with AsyncClient(served.address.grpc) as asking:
            answers = await asyncio.gather(*(asking.recommend(f"user-{u}", k=7) for u in range(20)))
        return [answer.ids for answer in answers]

    assert asyncio.run(ask()) == [client.recommend(f"user-{u}", k=7).ids for u in range(20)]


def test_asyncio_tells_failures_the_same_way(served: Supervisor) -> None:
    async def ask() -> None:
        async with AsyncClient(served.address.grpc) as asking:
            with pytest.raises(RequestError, match=r"^k = 0"):
                await asking.recommend("user-0", k=0)
            with pytest.raises(DeadlineError):
                await asking.recommend("user-0", deadline_ms=-1)

    asyncio.run(ask())


def test_a_parameter_that_grpc_cannot_carry_is_refused(client: Client) -> None:
    with pytest.raises(RequestError, match="not supported"):
        client.recommend("user-0", k=[10])  # type: ignore[arg-type]


def test_without_a_server_the_error_says_how_to_start_one(nowhere: str) -> None:
    with Client(nowhere) as client, pytest.raises(ServerError, match=r"start one with `shortlist serve DIR`"):
        client.recommend("user-0")


def test_without_a_server_asyncio_says_the_same(nowhere: str) -> None:
    async def ask() -> None:
        async with AsyncClient(nowhere) as client:
            with pytest.raises(ServerError, match="no server answers"):
                await client.recommend("user-0")

    asyncio.run(ask())


def test_an_unknown_model_is_a_server_error(served: Supervisor) -> None:
    with Client(served.address.grpc, model="nope") as client, pytest.raises(ServerError, match="nope"):
        client.recommend("user-0")


def test_a_client_waits_no_longer_than_the_deadline() -> None:
    started = time.monotonic()
    with Client("192.0.2.1:8001") as client, pytest.raises((DeadlineError, ServerError)):
        client.recommend("user-0", deadline_ms=100)
    assert time.monotonic() - started < 8  # without a deadline it waits for 10


class Counting(grpc.GenericRpcHandler):
    """A service that counts its calls and knows none of them."""

    calls = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        self.calls += 1


def test_requests_are_spread_over_all_addresses_of_a_service() -> None:
    replicas = [Counting(), Counting()]
    servers = [grpc.server(ThreadPoolExecutor(1), handlers=[replica]) for replica in replicas]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        server.start()
    with Client("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as client:
        until = time.monotonic() + 60
        while not all(replica.calls for replica in replicas) and time.monotonic() < until:  # both are connected
            with contextlib.suppress(ServerError):
                client.recommend()
        before = [replica.calls for replica in replicas]
        for _ in range(40):
            with contextlib.suppress(ServerError):
                client.recommend()
    for server in servers:
        server.stop(None).wait()
    assert min(replica.calls - calls for replica, calls in zip(replicas, before, strict=True)) >= 10
