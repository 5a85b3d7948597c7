"""The load generator against a real Triton: what it sends is understood, what it counts is what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.serving.benchmark.limit import exact_search
from shortlist.serving.benchmark.load import Generator
from shortlist.serving.benchmark.servers import Server, fastapi
from shortlist.serving.benchmark.workload import EXCLUDED, make_requests
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE
from shortlist.types import Slate

RATE, SECONDS = 100, 2.0


@pytest.fixture(scope="module")
def generator(bundle: Path) -> Iterator[Generator]:
    made = Generator(bundle, messages=64)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(served: Supervisor) -> dict[str, Any]:
    return asdict(Server("cascade", "grpc", (served.address.grpc_port,), (served.server.pid,), CASCADE.name))


def in_process(bundle: Path, count: int) -> list[list[str]]:
    answers = Cascade.load(bundle).recommend(make_requests(bundle, 64)[:count])
    return [[item.decode() for item in answer.item_ids] for answer in answers if isinstance(answer, Slate)]


def test_frames_written_by_hand_get_the_slates_of_the_cascade(
    generator: Generator, server: dict[str, Any], bundle: Path
) -> None:
    assert generator.obey({"server": server, "slates": 20})["slates"] == in_process(bundle, 20)


def test_a_closed_loop_gets_an_answer_to_every_request(generator: Generator, server: dict[str, Any]) -> None:
    found = generator.obey({"server": server, "clients": 4, "seconds": 1.0, "seed": 1})
    assert found["requests"] >= 4
    assert found["failed"] == 0
    assert found["cpu_ms"] > 0


def test_an_open_loop_sends_as_many_as_are_due(generator: Generator, server: dict[str, Any]) -> None:
    found = generator.obey({"server": server, "rate": RATE, "seconds": SECONDS, "seed": 1})
    assert found["requests"] == pytest.approx(RATE * SECONDS, rel=0.4)  # six standard deviations of Poisson's law
    assert found["failed"] == 0


def test_a_refusal_counts_as_failed(generator: Generator, server: dict[str, Any]) -> None:
    nowhere = server | {"name": "nowhere", "model": "nowhere"}
    found = generator.obey({"server": nowhere, "clients": 1, "seconds": 0.1, "seed": 1})
    assert found["failed"] == found["requests"] > 0


@pytest.mark.parametrize("batch", [False, True])
def test_the_lean_server_gives_the_slates_of_the_cascade(generator: Generator, bundle: Path, batch: bool) -> None:
    with fastapi(bundle, f"fastapi {batch}", batch, workers=1) as peer:
        assert generator.obey({"server": asdict(peer), "slates": 20})["slates"] == in_process(bundle, 20)


def test_requests_leave_items_out_and_every_second_brings_a_history(bundle: Path) -> None:
    requests = make_requests(bundle, 10)
    assert [bool(request.history) for request in requests] == [False, True] * 5
    assert {len(request.exclude) for request in requests} == {EXCLUDED}


def test_exact_search_finds_the_largest_products() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((3, 8), np.float32), rng.standard_normal((1000, 8), np.float32)
    wanted = np.argsort(-(users @ items.T), axis=1)[:, :20]
    assert (np.sort(exact_search(users, items, 20, chunk=64)) == np.sort(wanted)).all()
