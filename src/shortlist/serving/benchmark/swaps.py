"""Swaps two catalogues back and forth under load, and looks at every answer.

    python -m shortlist.serving.benchmark.swaps runs/demo --requests 100000 --swaps 20

The second catalogue has ids that the first has not, so that one foreign id proves a slate of the wrong version. The
first swap is a deployment, the others are rollbacks, as people would do them; slates are cached, so that a stale one
would be seen. Clients send at a steady rate whatever the answers do; latency counts from the moment a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.bundle import Bundle, bundle_folder
from shortlist.catalog import IdMap
from shortlist.errors import ShortlistError
from shortlist.serving.client import AsyncClient, Recommendation
from shortlist.serving.deploy import deploy, roll_back
from shortlist.serving.process import free_address
from shortlist.serving.releases import prune
from shortlist.serving.repository import build_repository, find_bundle
from shortlist.serving.supervisor import Supervisor

OTHER = "other/"  # every id of the second catalogue begins with this, none of the first does
CACHED = 2000  # slates that each instance keeps
PATIENCE = 60.0  # seconds after which a request counts as failed
AROUND = 1.0  # seconds before and after a switch that count as part of it
SOME = 1000  # people and items of each catalogue that requests name
REPLACED = ("item_ids.npy", "item_offsets.npy", "item_slots.npy", "items.parquet", "golden.json")


@dataclass
class Seen:
    """What the clients saw. `first` and `second` are the versions of either catalogue."""

    due: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    mixed: int = 0  # slates with items of both catalogues
    wrong: int = 0  # slates of one catalogue under a version of the other
    backwards: int = 0  # sent after a newer version had answered, and answered by an older one
    newest: int = 0

    def take(self, answer: Recommendation, newest_when_sent: int) -> None:
        """Look at one slate. Odd versions hold the first catalogue, even ones the second."""
        version = int(answer.version)
        foreign = {item.startswith(OTHER) for item in answer.ids}
        self.versions[answer.version] += 1
        self.mixed += len(foreign) > 1
        self.wrong += foreign == {version % 2 == 1}
        self.backwards += version < newest_when_sent
        self.newest = max(self.newest, version)


@dataclass
class Swap:
    """One swap: when the version was published, when it was served by all."""

    version: int
    published: float
    served: float


def renamed(bundle: Path, out: Path, prefix: str) -> Path:
    """The same bundle with `prefix` before every item id, slates cached, and no golden requests."""
    source = Bundle.open(bundle)
    ids = IdMap.load(source, "item")
    names = [prefix + ids.id(row).decode() for row in range(len(ids))]
    cascade = source.metadata["cascade"] | {"cached_slates": CACHED}
    with bundle_folder(out, source.metadata | {"cascade": cascade}) as folder:
        for name in source.files:
            if name not in REPLACED:
                shutil.copyfile(source.file(name), folder / name)
        for name, array in IdMap.build(names).arrays("item").items():
            np.save(folder / f"{name}.npy", array)
    return out


class Load:
    """Clients that send `rate` requests a second between them until told to stop."""

    def __init__(self, url: str, people: Sequence[bytes], items: Sequence[bytes], clients: int, rate: float) -> None:
        self.seen, self.sent = Seen(), 0
        self._url, self._people, self._items = url, people, items
        self._clients, self._rate = clients, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, requests: int) -> None:
        """Until so many were sent."""
        while self.sent < requests:
            time.sleep(0.05)

    async def _run(self) -> None:
        started = time.perf_counter() + 0.5
        await asyncio.gather(*(self._send(number, started) for number in range(self._clients)))

    async def _send(self, number: int, started: float) -> None:
        """Every `clients`-th request of the sequence. One that is late counts from when it was due."""
        rng = np.random.default_rng(number)
        async with AsyncClient(self._url, timeout=PATIENCE) as client:
            turn = number
            while not self._stop.is_set():
                due = started + turn / self._rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                turn += self._clients
                self.sent += 1
                await self._ask(client, due, rng)

    async def _ask(self, client: AsyncClient, due: float, rng: np.random.Generator) -> None:
        """A stored person; every fourth brings a history along, which one of the catalogues does not know."""
        newest, seen = self.seen.newest, self.seen
        history = rng.choice(self._items, 10).tolist() if rng.integers(4) == 0 else ()
        try:
            answer = await client.recommend(rng.choice(self._people), k=10, history=history)
        except ShortlistError as error:
            seen.failures[f"{type(error).__name__}: {error}"[:200]] += 1
        else:
            seen.take(answer, newest)
        seen.due.append(due)
        seen.latencies.append(time.perf_counter() - due)


def run(
    first: Path,
    other: Path,
    folder: Path,
    requests: int,
    swaps: int,
    *,
    clients: int = 8,
    rate: float = 200.0,
    instances: int | None = None,
) -> dict[str, Any]:
    """Swap `swaps` times between the bundles `first` and `other` during `requests` requests; what came of it.

    Raises ShortlistError when a swap itself fails.
    """
    bundles = [renamed(first, folder / "first", ""), renamed(other, folder / "other", OTHER)]
    people, items = _ids(bundles, "user"), _ids(bundles, "item")
    repository = folder / "repository"
    build_repository(bundles[0], repository, instances=instances)
    done: list[Swap] = []
    with Supervisor(repository, free_address(), on_event=tell) as supervisor:
        with Load(supervisor.address.grpc, people, items, clients, rate) as load:
            for number in range(swaps):
                load.wait_for((2 * number + 1) * requests // (2 * swaps))
                done.append(_swap(repository, bundles[1], number))
                prune(repository, 2)
            load.wait_for(requests)
        repairs = supervisor.restarts + supervisor.reloads
    return report(load.seen, done, repairs)


def report(seen: Seen, swaps: Sequence[Swap], repairs: int) -> dict[str, Any]:
    """Counts, and latencies by phase: while a version loads, within seconds of the switch, and between."""
    due, latencies = np.array(seen.due), 1e3 * np.array(seen.latencies)
    loading, switching = np.zeros(len(due), bool), np.zeros(len(due), bool)
    for swap in swaps:
        switching |= (due >= swap.served - AROUND) & (due < swap.served + AROUND)
        loading |= (due >= swap.published) & (due < swap.served - AROUND)
    phases = {"steady": ~loading & ~switching, "loading": loading & ~switching, "switching": switching}
    return {
        "requests": len(due),
        "swaps": len(swaps),
        "failed": sum(seen.failures.values()),
        "failures": dict(seen.failures),
        "mixed_slates": seen.mixed,
        "slates_of_wrong_version": seen.wrong,
        "older_version_after_newer": seen.backwards,
        "versions": len(seen.versions),
        "repairs": repairs,
        "seconds_to_swap": float(np.median([swap.served - swap.published for swap in swaps])),
        "requests_per_second": len(due) / float(np.ptp(due)),
        "latency_ms": {name: _percentiles(latencies[inside]) for name, inside in phases.items()},
    }


def _percentiles(latencies: NDArray[np.float64]) -> dict[str, float]:
    if not len(latencies):
        return {"requests": 0}
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"requests": len(latencies), "p50": float(p50), "p99": float(p99), "max": float(latencies.max())}


def tell(line: str) -> None:
    """Progress, and what goes wrong, to standard error."""
    print(line, file=sys.stderr, flush=True)


def _swap(repository: Path, other: Path, number: int) -> Swap:
    """Deploys `other` the first time; then goes back to what was served before, every time."""
    times: list[float] = []

    def note(line: str) -> None:
        times.append(time.perf_counter())
        tell(line)

    version = deploy(other, repository, note) if number == 0 else roll_back(repository, None, note)
    return Swap(version, published=times[-2], served=times[-1])  # the last words: published, served


def _ids(bundles: Sequence[Path], kind: str) -> list[bytes]:
    """Some ids of both bundles, from all over: neighbouring rows are alike."""
    maps = [IdMap.load(Bundle.open(bundle, verify=False), kind) for bundle in bundles]
    return [ids.id(row) for ids in maps for row in range(0, len(ids), max(1, len(ids) // SOME))]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run, or of its bundle")
    parser.add_argument("--other", type=Path, help="another one; by default the same with other item ids")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second of all clients together")
    parser.add_argument("--instances", type=int, help="by default one per core")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-swaps-") as folder:
        bundles = find_bundle(asked.run), find_bundle(asked.other or asked.run)
        done = run(
            *bundles,
            Path(folder),
            asked.requests,
            asked.swaps,
            clients=asked.clients,
            rate=asked.rate,
            instances=asked.instances,
        )
    print(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
