"""Many times more requests than can be answered: each gets a slate or a refusal, and then all is as before."""

import re
import select
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from shortlist.errors import DeadlineError
from shortlist.loadtest.overload import REFUSED, STATUSES, Connection, Outcome, messages, offer, recovery, summary
from shortlist.serving.client import Client
from shortlist.serving.supervisor import Supervisor
from shortlist.types import FULL

RATE, SECONDS = 20_000, 0.3  # a second, seconds


def refused_by_the_cascade(served: Supervisor) -> int:
    with urllib.request.urlopen(served.address.metrics) as page:
        counted = re.findall(
            r'^shortlist_errors_total{.*field="deadline_unix_us".*} (\S+)$', page.read().decode(), re.M
        )
    return int(sum(map(float, counted)))


@pytest.fixture(scope="module")
def flood(served: Supervisor, bundle: Path) -> tuple[list[Outcome], int, int]:
    """Outcomes of the overload, how many requests hang, and how many the cascade says it refused."""
    before = refused_by_the_cascade(served)
    connections = [Connection("127.0.0.1", served.address.grpc_port) for _ in range(300)]
    outcomes, hung = offer(connections, messages(bundle, "cascade"), RATE, SECONDS, budget=0.03)
    for connection in connections:
        connection.socket.close()
    refused, until = sum(o.answer == REFUSED for o in outcomes), time.monotonic() + 20
    while (counted := refused_by_the_cascade(served) - before) < refused and time.monotonic() < until:
        time.sleep(0.2)  # counts are handed over once a second
    return outcomes, hung, counted


def test_every_request_gets_a_slate_or_a_refusal(flood: tuple[list[Outcome], int, int]) -> None:
    outcomes, _, _ = flood
    assert len(outcomes) > 1000
    assert {o.answer for o in outcomes} <= {*STATUSES, REFUSED}


def test_nothing_hangs(flood: tuple[list[Outcome], int, int]) -> None:
    assert flood[1] == 0


def test_some_are_refused_and_the_cascade_did_it(flood: tuple[list[Outcome], int, int]) -> None:
    outcomes, _, counted = flood
    assert 0 < sum(o.answer == REFUSED for o in outcomes) <= counted  # some of a test before may be handed over late


def test_afterwards_answers_are_full(flood: tuple[list[Outcome], int, int], client: Client) -> None:
    def status() -> str:
        try:
            return client.recommend("user-0", deadline_ms=5000).status
        except DeadlineError:
            return REFUSED

    until = time.monotonic() + 60
    while (found := status()) != FULL and time.monotonic() < until:
        pass
    assert found == FULL


def test_a_summary_has_the_shares_and_the_times() -> None:
    outcomes = [Outcome(0.0, 0.01, FULL)] * 3 + [Outcome(0.0, 0.08, "fallback"), *[Outcome(0.0, 0.002, REFUSED)] * 4]
    found = summary(outcomes, budget=0.05)
    assert found["shares"] == {"full": 0.375, "no_rank": 0, "no_filter": 0, "fallback": 0.125, "refused": 0.5}
    assert (found["answered_ms"]["p50"], found["refused_ms"]["p50"], found["late"]) == (10, 2, 0.25)


def test_recovery_is_when_a_whole_second_is_as_usual() -> None:
    outcomes = [Outcome(n / 100, 0.001, REFUSED if n < 150 else FULL) for n in range(400)]
    assert recovery(outcomes, usual=1.0) == 1.5


def test_an_answer_that_waits_to_be_read_has_arrived() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection, until = Connection(*server.getsockname()), time.monotonic() + 20
        with server.accept()[0] as peer:
            seen = 0.0
            while connection.arrived >= seen and time.monotonic() < until:  # stamps come a moment after the first wish
                peer.sendall(b"\0\0\0\1\5\0\0\0\1")  # HEADERS without content that end stream 1
                select.select([connection.socket], [], [])
                seen = time.time()
                assert connection.receive() == b""
        connection.socket.close()
    assert connection.arrived < seen
