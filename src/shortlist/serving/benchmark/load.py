"""The load generator: a process of its own that sends prepared requests, in a closed or an open loop, and times them.

    echo '{"servers": …, "clients": 16, "seconds": 3}' | python -m shortlist.serving.benchmark.load BUNDLE

Each line on its standard input is a command, each line of its output the answer; `Load` is the other end. The
generator shares the machine with the servers, so it tells what it cost.
"""

from __future__ import annotations

import gc
import json
import random
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.serving.benchmark.cpu import cpu_seconds
from shortlist.serving.benchmark.wire import Connection, GrpcConnection, HttpConnection
from shortlist.serving.benchmark.workload import grpc_message, grpc_slate, make_requests

MOST_OPEN = 64  # connections of an open loop: with more than that in flight, one more or less makes no difference


class Generator:
    """Messages made once, and connections kept, for every server that it is pointed at."""

    def __init__(self, bundle: Path, messages: int) -> None:
        self.requests = make_requests(bundle, messages)
        self._encoded: dict[str, list[bytes]] = {}
        self._connections: dict[str, list[Connection]] = {}

    def close(self) -> None:
        """Close all connections."""
        for connections in self._connections.values():
            for connection in connections:
                connection.socket.close()

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do one command: `slates` to compare, or a closed loop, or with `rate` an open one."""
        server = command["server"]
        messages = self._messages(server)
        if "slates" in command:
            return {"slates": self._slates(server, messages[: command["slates"]])}
        before = cpu_seconds(server["pids"]), time.process_time(), time.perf_counter()
        if rate := command.get("rate"):
            connections = self._connect(server, MOST_OPEN)
            latencies, failed = open_loop(connections, messages, rate, command["seconds"], command["seed"])
        else:
            connections = self._connect(server, command["clients"])
            latencies, failed = closed_loop(connections, messages, command["seconds"], command["seed"])
        return _summary(latencies, failed, *_since(before, server["pids"]))

    def _messages(self, server: dict[str, Any]) -> list[bytes]:
        kind = server["protocol"] + server.get("model", "")
        if kind not in self._encoded:
            self._encoded[kind] = [_encode(request, server) for request in self.requests]
        return self._encoded[kind]

    def _connect(self, server: dict[str, Any], count: int) -> list[Connection]:
        """`count` connections, spread evenly over the server's ports."""
        kept = self._connections.setdefault(server["name"], [])
        make: Callable[[str, int], Connection] = GrpcConnection if server["protocol"] == "grpc" else HttpConnection
        for i in range(len(kept), count):
            kept.append(make(server["host"], server["ports"][i % len(server["ports"])]))
        return kept[:count]

    def _slates(self, server: dict[str, Any], messages: Sequence[bytes]) -> list[list[str]]:
        (connection,) = self._connect(server, 1)
        decode = grpc_slate if server["protocol"] == "grpc" else _http_slate
        slates = []
        for message in messages:
            connection.send(message)
            while (answer := connection.receive()) is None:
                pass
            slates.append([item.decode() for item in decode(answer)] if answer else ["the server answered an error"])
        return slates


def closed_loop(
    connections: Sequence[Connection], messages: Sequence[bytes], seconds: float, seed: int = 0
) -> tuple[list[float], int]:
    """Each connection sends its next request when it has its answer. Returns latencies in seconds, and failures."""
    poll = select.epoll()
    by_number = {connection.socket.fileno(): connection for connection in connections}
    started, latencies, failed = dict.fromkeys(by_number, 0.0), list[float](), 0
    i, clock = random.Random(seed).randrange(len(messages)), time.perf_counter
    end = clock() + seconds
    for number, connection in by_number.items():
        poll.register(number, select.EPOLLIN)
        started[number] = clock()
        connection.send(messages[(i := i + 1) % len(messages)])
    waiting = len(connections)
    while waiting:
        for number, _ in poll.poll():
            connection = by_number[number]
            answer = connection.receive()
            if answer is None:
                continue
            now = clock()
            latencies.append(now - started[number])
            failed += not answer
            if now < end:
                started[number] = now
                connection.send(messages[(i := i + 1) % len(messages)])
            else:
                waiting -= 1
    poll.close()
    return latencies, failed


def open_loop(
    connections: Sequence[Connection], messages: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> tuple[list[float], int]:
    """Requests arrive by a Poisson process of `rate` a second, whether or not there are answers.

    Latencies count from the moment a request was due, so that a server's pause is charged to all who came in it.
    """
    rng, clock = random.Random(seed), time.perf_counter
    free, busy = deque(connections), dict[int, tuple[Connection, float]]()
    latencies, failed, due = list[float](), 0, deque[float]()
    i = rng.randrange(len(messages))
    arrival, end = clock(), clock() + seconds
    while True:
        now = clock()
        while arrival <= now and arrival < end:
            due.append(arrival)
            arrival += rng.expovariate(rate)
        while due and free:
            connection = free.popleft()
            connection.send(messages[(i := i + 1) % len(messages)])
            busy[connection.socket.fileno()] = connection, due.popleft()
        if now >= end and not busy:
            return latencies, failed
        wait = max(0.0, arrival - now) if arrival < end else 1.0
        for number in select.select(list(busy), (), (), wait)[0]:  # epoll's timeouts are whole milliseconds
            connection, since = busy[number]
            answer = connection.receive()
            if answer is not None:
                latencies.append(clock() - since)
                failed += not answer
                free.append(busy.pop(number)[0])


def _since(before: tuple[float, float, float], pids: Sequence[int]) -> tuple[float, float, float]:
    server, client, start = before
    client, seconds = time.process_time() - client, time.perf_counter() - start
    return cpu_seconds(pids) - server, client, seconds


def _summary(latencies: list[float], failed: int, server: float, client: float, seconds: float) -> dict[str, Any]:
    count = len(latencies)
    p50, p95, p99 = (1e3 * np.percentile(latencies, [50, 95, 99])).tolist()
    return {
        "requests": count,
        "failed": failed,
        "per_second": count / seconds,
        "cpu_ms": 1e3 * server / count,
        "client_cpu_ms": 1e3 * client / count,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": 1e3 * max(latencies),
    }


def _encode(request: Any, server: dict[str, Any]) -> bytes:
    if server["protocol"] == "grpc":
        return grpc_message(request, server["model"])
    from shortlist.serving.benchmark.peers.message import encode

    return encode(request)


def _http_slate(body: bytes) -> tuple[bytes, ...]:
    from shortlist.serving.benchmark.peers.message import decode_slate

    return decode_slate(body)


def main() -> None:
    """Obey commands until standard input ends."""
    generator = Generator(Path(sys.argv[1]), int(sys.argv[2]))
    gc.freeze()
    gc.disable()  # no pause of the client's counts as the server's
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(generator.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
