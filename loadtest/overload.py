"""Beyond saturation: what a served cascade does with one, two and three times the requests that it can answer.

    python -m shortlist.loadtest.overload BUNDLE --budgets 20 50 100

Requests arrive whether or not there are answers, each with a deadline of its own, and are timed from the moment they
were due until the kernel has the last byte of the answer. The generator shares its cores with a server that wants them
all, and clients do not: so it goes before all others where it may (root), and its wait for a core to read an answer
does not count. It reads the clock of the server; where that is another machine's, a difference of the clocks is a
difference of every budget.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import select
import socket
import struct
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.errors import ServerError
from shortlist.serving.benchmark import servers
from shortlist.serving.benchmark.cpu import cpu_seconds
from shortlist.serving.benchmark.load import closed_loop
from shortlist.serving.benchmark.servers import Server
from shortlist.serving.benchmark.wire import GrpcConnection
from shortlist.serving.benchmark.workload import grpc_message, make_requests
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK

MESSAGES = 2000  # different requests
CLIENTS = 32  # connections that saturate the server
MOST_OPEN = 600  # requests in flight at once; what is due beyond that waits in the generator, its budget running
CALM = 0.5  # share of saturation before and after the overload
PATIENCE = 10.0  # seconds to wait for the last answers; what is missing then hangs
WINDOW = 0.25  # seconds over which recovery is looked at
REFUSED = "refused"
STATUSES = (FULL, NO_RANK, NO_FILTER, FALLBACK)
_MARK = 1 << 50  # a deadline that is as long on the wire as those of this century
_SO_TIMESTAMPNS = 35  # of Linux; Python does not name it
_TIME = struct.Struct("qq")  # seconds, nanoseconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: seconds from the start of the load to when it was due, seconds to its answer, and what that was."""

    due: float
    seconds: float
    answer: str  # a slate's status, or `refused`
    unsent: float = 0.0  # seconds that it waited in the generator before it was sent, part of the above
    unread: float = 0.0  # seconds that the answer waited for the generator, not part of it


class Connection(GrpcConnection):
    """Knows when an answer came into this machine, however late it is read."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.arrived = 0.0  # seconds since 1970, of the latest bytes that were read
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def _read(self) -> bytes:
        received, ancillary, *_ = self.socket.recvmsg(65536, socket.CMSG_SPACE(_TIME.size))
        if not received:
            raise ServerError("the server closed the connection")
        stamps = [_TIME.unpack(data) for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS]
        self.arrived = stamps[0][0] + stamps[0][1] / 1e9 if stamps else time.time()
        return received


class Message:
    """An encoded request whose deadline can be set at no cost."""

    def __init__(self, encoded: bytes) -> None:
        """`encoded` has the deadline _MARK."""
        self._head, found, self._tail = encoded.partition(_varint(_MARK))
        assert found

    def due(self, deadline_unix_us: int) -> bytes:
        """The request with that deadline."""
        return self._head + _varint(deadline_unix_us) + self._tail


def messages(bundle: Path, model: str) -> list[Message]:
    """The benchmark's requests: Zipf users, every second with a history of its own."""
    return [Message(grpc_message(replace(r, deadline_unix_us=_MARK), model)) for r in make_requests(bundle, MESSAGES)]


def offer(
    connections: Sequence[Connection], requests: Sequence[Message], rate: float, seconds: float, budget: float
) -> tuple[list[Outcome], int]:
    """Requests by a Poisson process of `rate` a second, each due `budget` seconds after it arrives.

    Returns the outcomes in the order of the answers, and how many requests got none.
    """
    rng, clock, poll = random.Random(0), time.time, select.epoll()
    by_number = {connection.socket.fileno(): connection for connection in connections}
    free, due, busy = deque(by_number), deque[float](), dict[int, tuple[float, float]]()
    outcomes, sent = list[Outcome](), 0
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    arrival = start = clock()
    end = start + seconds
    while (now := clock()) < end or ((busy or due) and now < end + PATIENCE):
        while arrival <= now and arrival < end:
            due.append(arrival)
            arrival += rng.expovariate(rate)
        while due and free:
            number, since = free.popleft(), due.popleft()
            by_number[number].send(requests[(sent := sent + 1) % len(requests)].due(int((since + budget) * 1e6)))
            busy[number] = since, clock()
        for number, _ in poll.poll(max(0.0, min(arrival, end) - clock()) if now < end else 0.1):
            connection = by_number[number]
            answer = connection.receive()
            if answer is not None and number in busy:
                (since, left), came = busy.pop(number), connection.arrived
                outcomes.append(Outcome(since - start, came - since, status_of(answer), left - since, clock() - came))
                free.append(number)
    poll.close()
    return outcomes, len(busy) + len(due)


def status_of(answer: bytes) -> str:
    """What the slate says was left out; an answer without a slate is a refusal."""
    return next((s for s in STATUSES if len(s).to_bytes(4, "little") + s.encode() in answer), "") if answer else REFUSED


def summary(outcomes: Sequence[Outcome], budget: float) -> dict[str, Any]:
    """Shares of the outcomes, and milliseconds of the answered, of the refused, and that the generator was behind."""
    count = Counter(o.answer for o in outcomes)
    answered = [1e3 * o.seconds for o in outcomes if o.answer != REFUSED]
    refused = [1e3 * o.seconds for o in outcomes if o.answer == REFUSED]
    return {
        "shares": {status: round(count[status] / len(outcomes), 3) for status in (*STATUSES, REFUSED)},
        "answered_ms": _percentiles(answered),
        "refused_ms": _percentiles(refused),
        "unsent_ms": _percentiles([1e3 * o.unsent for o in outcomes]),
        "unread_ms": _percentiles([1e3 * o.unread for o in outcomes]),
        "late": sum(ms > 1e3 * budget for ms in answered) / max(1, len(answered)),
    }


def recovery(outcomes: Sequence[Outcome], usual: float) -> float:
    """Seconds until a whole second of requests holds the `usual` share of full slates, to .05; inf when none does."""
    due = np.array([o.due for o in outcomes])
    full = np.array([o.answer == FULL for o in outcomes])
    for start in np.arange(0, due.max() - 1, WINDOW):
        within = full[(due >= start) & (due < start + 1)]
        if len(within) and within.mean() >= usual - 0.05:
            return float(start)
    return float("inf")


def measure(server: Server, bundle: Path, budgets: Sequence[float], factors: Sequence[float], seconds: float) -> Any:
    """For each budget and multiple of saturation: the outcomes under that load, and how soon they are as before."""
    requests = messages(bundle, server.model)
    connections = [Connection(server.host, server.ports[0]) for _ in range(MOST_OPEN)]
    forever = [request.due(2**55) for request in requests]
    closed_loop(connections[:CLIENTS], forever, seconds / 2)  # warms up
    before = cpu_seconds(server.pids)
    latencies, _ = closed_loop(connections[:CLIENTS], forever, seconds)
    saturation = len(latencies) / seconds
    cpu_ms = 1e3 * (cpu_seconds(server.pids) - before) / len(latencies)
    rows = []
    for budget in budgets:
        for factor in factors:
            calm, _ = offer(connections, requests, CALM * saturation, seconds / 2, budget)
            spent, own = cpu_seconds(server.pids), time.process_time()
            load, hung = offer(connections, requests, factor * saturation, seconds, budget)
            cpu = {"server": cpu_seconds(server.pids) - spent, "generator": time.process_time() - own}
            after, left = offer(connections, requests, CALM * saturation, 6.0, budget)
            usual = sum(o.answer == FULL for o in calm) / len(calm)
            rows.append(
                {"budget_ms": 1e3 * budget, "factor": factor, "hung": hung + left}
                | summary(load, budget)
                | {"recovery_s": recovery(after, usual), "calm": summary(calm, budget), "after": summary(after, budget)}
                | {"cores": {name: round(used / seconds, 2) for name, used in cpu.items()}}
            )
            print(_line(rows[-1]), flush=True)
    return {"saturation_per_second": saturation, "cpu_ms_per_request": cpu_ms, "loads": rows}


def go_before_others() -> None:
    """Have this thread run whenever it can; where it may not, the outcomes tell how far behind it was.

    `nice` would not do: it weighs within a session, and the server has one of its own.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _line(row: dict[str, Any]) -> str:
    shares = " ".join(f"{100 * share:5.1f}" for share in row["shares"].values())
    answered, refused, calm = (
        " ".join(f"{ms:6.1f}" for ms in times.values())
        for times in (row["answered_ms"], row["refused_ms"], row["calm"]["answered_ms"])
    )
    return (
        f"{row['budget_ms']:5.0f} ms {row['factor']:3.1f}x | {shares} | {answered} | late {100 * row['late']:5.2f} % | "
        f"{refused} | {row['recovery_s']:4.2f} s | hung {row['hung']} | calm {calm} | {row['cores']} | "
        f"generator behind: sends {row['unsent_ms']['p99']:.1f}, reads {row['unread_ms']['p99']:.1f} ms"
    )


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return dict.fromkeys(("p50", "p99"), float("nan"))
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer."""
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([g | 128 for g in groups[:-1]] + groups[-1:])


def main() -> None:
    """Serve a bundle and overload it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--budgets", type=float, nargs="+", default=[20, 50, 100], help="milliseconds")
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 3], help="multiples of saturation")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-overload-") as folder:
        print("budget, load | % full no_rank no_filter fallback refused | answered p50 p99 ms | refused p50 p99 ms | …")
        with servers.cascade(given.bundle, Path(folder) / "repository", "cascade") as server:
            gc.freeze()
            gc.disable()  # no pause of the generator's counts as the server's
            go_before_others()
            found = measure(server, given.bundle, [b / 1e3 for b in given.budgets], given.factors, given.seconds)
    print(f"saturation {found['saturation_per_second']:.0f}/s, {found['cpu_ms_per_request']:.2f} CPU-ms a request")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
