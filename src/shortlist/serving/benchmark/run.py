"""`shortlist bench serving`: the cascade, its limit and its peers, measured in turn in one run, reported as medians.

In every round each case runs once, in random order; so what the machine does besides falls on all alike. Servers are
started, asked for the same slates and compared before anything is timed; all work at full effort, without a cache.
What a number must be is said by `report`.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shortlist.errors import ServerError
from shortlist.serving.benchmark import servers
from shortlist.serving.benchmark.servers import Server
from shortlist.serving.benchmark.worker import Worker

MESSAGES = 4000  # different requests
COMPARED = 40  # requests that all must answer with the same slates
CLIENTS = (1, 4, 16, 64)
MANY = 16
LOAD_SHARE = 0.7  # of saturation, for the open loop
Measured = dict[str, list[dict[str, float]]]  # case -> what each round found


@dataclass(frozen=True)
class Case:
    """One thing to measure in every round."""

    name: str
    measure: Callable[[int], dict[str, float]]  # of the round's number


def run(
    bundle: Path,
    rounds: int = 5,
    seconds: float = 2.0,
    growth: Sequence[Path] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Medians of every case over `rounds` rounds of `seconds` each; `growth` are two bundles of different sizes.

    Raises ServerError when a server does not start, or does not answer what the cascade answers in process.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shortlist-bench-")))
        tell("starting the servers")
        bundle = servers.at_full_effort(bundle, folder / "bundle")
        rivals = _start(stack, bundle, folder)
        load, limits = _load(stack, bundle), [_limit(stack, bundle) for _ in range(2)]
        recall = {str(bundle): limits[0].ask(recall=True)}
        tell("comparing slates")
        _compare(limits[0], load, rivals)
        cases = [*_limit_cases(limits, seconds), *_server_cases(load, rivals, seconds)]
        for name, path in zip(("small", "large"), growth, strict=False):
            path = servers.at_full_effort(path, folder / f"bundle-{name}")
            with contextlib.ExitStack() as brief:
                recall[str(path)] = _limit(brief, path).ask(recall=True)
            grown = stack.enter_context(servers.cascade(path, folder / name, name))
            cases.append(_closed(_load(stack, path), grown, MANY, seconds))
        found = _rounds(cases, load, rivals[0], rounds, seconds, tell)
    return {"cases": found, "recall": list(recall.values()), "messages": MESSAGES, "compared": COMPARED}


def _start(stack: contextlib.ExitStack, bundle: Path, folder: Path) -> list[Server]:
    return [
        stack.enter_context(servers.cascade(bundle, folder / "cascade", "cascade")),
        stack.enter_context(servers.fastapi(bundle, "fastapi", batch=False)),
        stack.enter_context(servers.fastapi(bundle, "fastapi_batched", batch=True)),
        stack.enter_context(servers.ensemble(bundle, folder / "ensemble", "ensemble")),
        stack.enter_context(servers.litserve(bundle, "litserve")),
    ]


def _load(stack: contextlib.ExitStack, bundle: Path) -> Worker:
    return stack.enter_context(Worker("shortlist.serving.benchmark.load", bundle, MESSAGES))


def _limit(stack: contextlib.ExitStack, bundle: Path) -> Worker:
    return stack.enter_context(Worker("shortlist.serving.benchmark.limit", bundle, MESSAGES))


def _compare(limit: Worker, load: Worker, rivals: Sequence[Server]) -> None:
    expected = limit.ask(slates=COMPARED)["slates"]
    for server in rivals:
        with servers.awake(server):
            given = load.ask(server=asdict(server), slates=COMPARED)["slates"]
        if given != expected:
            wrong = next(pair for pair in zip(given, expected, strict=True) if pair[0] != pair[1])
            raise ServerError(f"{server.name} answers {wrong[0]}, the cascade in process {wrong[1]}")


def _limit_cases(limits: Sequence[Worker], seconds: float) -> list[Case]:
    def measure(batch: int, number: int) -> dict[str, float]:
        for limit in limits:
            limit.begin(batch=batch, seconds=seconds, seed=number)
        answers = [limit.result() for limit in limits]
        return {
            "cpu_ms": 1e3 * sum(a["cpu"] for a in answers) / sum(a["requests"] for a in answers),
            "per_second": sum(a["requests"] / a["seconds"] for a in answers),
        }

    return [Case(f"limit@{batch}", partial(measure, batch)) for batch in (1, MANY)]


def _server_cases(load: Worker, rivals: Sequence[Server], seconds: float) -> list[Case]:
    """The cascade at every number of clients, its rivals at many (FastAPI at one, too)."""
    ours, *others = rivals
    cases = [_closed(load, ours, clients, seconds) for clients in CLIENTS]
    for server in others:
        numbers = (1, MANY) if server.name.startswith("fastapi") else (MANY,)
        cases += [_closed(load, server, clients, seconds) for clients in numbers]
    return cases


def _closed(load: Worker, server: Server, clients: int, seconds: float) -> Case:
    def measure(number: int) -> dict[str, float]:
        with servers.awake(server):
            found = load.ask(server=asdict(server), clients=clients, seconds=seconds, seed=number)
        return _checked(server, found)

    return Case(f"{server.name}@{clients}", measure)


def _rounds(
    cases: Sequence[Case], load: Worker, ours: Server, rounds: int, seconds: float, tell: Callable[[str], None]
) -> Measured:
    """Round 0 warms up and is forgotten. After each round the open loop, at a share of what it saturated at."""
    order, found = list(cases), defaultdict[str, list[dict[str, float]]](list)
    shuffle = random.Random(0).shuffle
    for number in range(rounds + 1):
        tell(f"round {number} of {rounds}" if number else "warming up")
        shuffle(order)
        round_found = {case.name: case.measure(number) for case in order}
        saturated = max(round_found[f"{ours.name}@{clients}"]["per_second"] for clients in CLIENTS)
        rate = LOAD_SHARE * saturated
        command = {"server": asdict(ours), "rate": rate, "seconds": 2 * seconds, "seed": number}
        round_found["open"] = _checked(ours, load.ask(**command)) | {"rate": rate}
        for name, numbers in round_found.items() if number else ():
            found[name].append(numbers)
    return dict(found)


def _checked(server: Server, found: dict[str, float]) -> dict[str, float]:
    if failed := found.pop("failed"):
        raise ServerError(f"{server.name} failed {failed:.0f} of {found['requests']:.0f} requests")
    return found
