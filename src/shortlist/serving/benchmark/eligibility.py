"""Retrieval under predicates: recall and CPU time by the share of the catalogue that stays eligible.

Two kinds of predicate are drawn: one that knows nothing of the vectors, like a stock flag, and one that goes with them,
like a language or a genre, which leaves whole regions of the catalogue. They need no attributes of the bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from shortlist import bitmap
from shortlist.attributes import Attribute, Numbers, Values
from shortlist.cascade import Cascade
from shortlist.serving.benchmark.limit import exact_search
from shortlist.serving.benchmark.workload import make_requests
from shortlist.types import Eligible, Int64, UserBatch

if TYPE_CHECKING:
    from rich.table import Table

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0001)
PEOPLE, TOGETHER, DEEP = 64, 16, 500  # people asked for, in batches of so many; proposals whose recall is measured
REGIONS = 8  # of the catalogue, which a predicate that goes with the vectors leaves
CATEGORIES = 1000  # values of the attribute whose bitmaps are timed


@dataclass(frozen=True)
class Case:
    """One predicate; without `eligible`, none at all."""

    kind: str
    share: float
    eligible: Eligible | None
    prepare_ms: float = 0.0


def bench_eligibility(bundle: Path, rounds: int = 5, seed: int = 0) -> dict[str, Any]:
    """Measure retrieval of `bundle` on one thread: `rounds` times all cases in random order; medians of CPU time."""
    cascade = Cascade.load(bundle, verify=False)
    cascade.warm_up()
    rng = np.random.default_rng(seed)
    asked = [replace(request, exclude=()) for request in make_requests(bundle, PEOPLE, seed)]
    users = cascade.users.read(asked)
    users = replace(users, masked=(np.empty(0, np.int32),) * len(users))
    cases = [Case("none", 1.0, None), *_cases(cascade, rng)]
    times = _times(cascade, users, cases, rounds, rng)
    free = median(times[0])
    return {
        "items": len(cascade.catalog),
        "compile": _compile_times(len(cascade.catalog), rng),
        "cases": [
            {
                "kind": case.kind,
                "share": case.share,
                "eligible": case.eligible.count if case.eligible else len(cascade.catalog),
                "way": _way(cascade, case.eligible),
                "recall@500": _recall(cascade, users, case.eligible),
                "cpu_ms": median(spent),
                "ratio": median(spent) / free,
                "prepare_ms": case.prepare_ms,
            }
            for case, spent in zip(cases, times, strict=True)
        ],
    }


def table(report: dict[str, Any]) -> Table:
    """The cases of a report, for people."""
    from rich.table import Table

    shown = Table(title=f"retrieval under predicates, {report['items']:,} items", title_justify="left")
    for name in ("predicate", "share", "eligible", "way", "recall@500", "CPU ms", "× none"):
        shown.add_column(name, justify="left" if name in ("predicate", "way") else "right")
    for case in report["cases"]:
        shown.add_row(
            case["kind"],
            f"{100 * case['share']:g} %",
            f"{case['eligible']:,}",
            case["way"],
            f"{case['recall@500']:.3f}",
            f"{case['cpu_ms']:.2f}",
            f"{case['ratio']:.2f}",
        )
    return shown


def _cases(cascade: Cascade, rng: np.random.Generator) -> list[Case]:
    """Predicates of both kinds for every share."""
    items, vectors = len(cascade.catalog), cascade.retrieve.vectors
    regions = vectors[np.sort(rng.choice(items, REGIONS, replace=False))]
    orders = {"stock": rng.permutation(items), "genre": np.argsort(-(vectors @ regions.T).max(axis=1))}
    counts = [max(1, round(share * items)) for share in SHARES]
    for first in (counts[0], counts[-1]):  # compiles, and maps the index's rows to its cells
        cascade.retrieve.prepare(Eligible(bitmap.of_rows(np.arange(first, dtype=np.int32), items), first))
    cases = []
    for kind, order in orders.items():
        for share, count in zip(SHARES, counts, strict=True):
            eligible = Eligible(bitmap.of_rows(order[:count].astype(np.int32), items), count)
            start = time.process_time()
            cascade.retrieve.prepare(eligible)
            cases.append(Case(kind, share, eligible, 1e3 * (time.process_time() - start)))
    return cases


def _times(
    cascade: Cascade, users: UserBatch, cases: list[Case], rounds: int, rng: np.random.Generator
) -> list[list[float]]:
    """CPU-ms of a request's retrieval, per case and round."""
    batches = [users.take(np.arange(start, start + TOGETHER)) for start in range(0, len(users), TOGETHER)]
    found: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds + 1):
        for place in rng.permutation(len(cases)).tolist():
            eligible = cases[place].eligible
            asked = [replace(batch, eligible=(eligible,) * len(batch) if eligible else ()) for batch in batches]
            start = time.process_time()
            for batch in asked:
                cascade.retrieve(batch, DEEP)
            if turn:  # the first only fills the caches
                found[place].append(1e3 * (time.process_time() - start) / len(users))
    return found


def _recall(cascade: Cascade, users: UserBatch, eligible: Eligible | None) -> float:
    """Share of the exact nearest eligible rows that are proposed."""
    vectors = cascade.retrieve.vectors
    asked = replace(users, eligible=(eligible,) * len(users) if eligible else ())
    proposed = cascade.retrieve._proposals(asked, DEEP, None)
    rows = np.arange(len(vectors)) if eligible is None else bitmap.rows_of(eligible.bits, eligible.count)
    exact = rows[exact_search(users.vectors, _Picked(vectors, rows), DEEP)]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, proposed, strict=True)]))


class _Picked:
    """Rows of a large table, copied only as far as somebody looks at them."""

    def __init__(self, vectors: Any, rows: Int64) -> None:
        self._vectors, self._rows = vectors, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> Any:
        return self._vectors[self._rows[part]]


def _way(cascade: Cascade, eligible: Eligible | None) -> str:
    if eligible is None:
        return "index"
    return "index, eligible cells" if eligible.rows is None else "every eligible row"


def _compile_times(items: int, rng: np.random.Generator) -> dict[str, float]:
    """CPU-ms that a new predicate takes before it is at hand, and bytes of the attributes that it asks."""
    rows, names = np.arange(items), [str(number) for number in range(CATEGORIES)]
    category = Values.build(items, rows, rng.zipf(1.5, items) % CATEGORIES, names)
    stock = Values.build(items, rows, rng.integers(0, 2, items), ["false", "true"])
    price = Numbers.build(rng.integers(0, 10_000, items).astype(np.float64))
    some = range(0, len(category.names), max(1, len(category.names) // 10))
    asked: dict[str, Callable[[], Any]] = {
        "flag": lambda: stock.having([0]),
        "some of 1000 categories": lambda: category.having(some),
        "range of numbers": lambda: price.between(10, 500),
    }
    for ask in asked.values():
        ask()
    sizes: dict[str, Attribute] = {"flag": stock, "category of 1000": category, "number": price}
    taken = {f"{name}, bytes": float(sum(a.nbytes for a in part.arrays("").values())) for name, part in sizes.items()}
    return {f"{name}, ms": 1e3 * _cpu(ask) for name, ask in asked.items()} | taken


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
