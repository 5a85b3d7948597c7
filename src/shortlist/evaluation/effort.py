"""What effort buys: NDCG against CPU time as the cascade searches fewer cells, keeps fewer candidates and ranks fewer.

Every setting answers the same requests, in turn, within one run on one thread. The knee is the cheapest setting that
surely loses next to nothing on validation; test figures are reported for all. How a server chooses its effort while
it serves is the business of `shortlist.deadlines`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from threadpoolctl import threadpool_limits

from shortlist.cascade import Cascade
from shortlist.data.features import Features
from shortlist.data.splits import Examples
from shortlist.evaluation.bootstrap import Interval, paired_difference
from shortlist.evaluation.metrics import Float64, ndcg, target_ranks
from shortlist.evaluation.progress import progress
from shortlist.evaluation.protocols import batches
from shortlist.evaluation.students import TOLERATED, TOP
from shortlist.profiles.replay import user_batch
from shortlist.training.run import load_served_split
from shortlist.types import Int32, UserBatch

BATCH = 16
CELLS = (1.0, 0.5, 0.25, 0.125, 0.03, 0.01)
CANDIDATES = (1000, 500, 250, 100, 50, 20)
DEPTHS = (200, 100, 50, 20)


@dataclass(frozen=True, order=True)
class Setting:
    """How much work a request is worth."""

    cells: float  # share of the cells that are searched by default; 1 where the index has none
    candidates: int
    rank_depth: int

    def __str__(self) -> str:
        return f"{self.cells:g} × cells, {self.candidates} → {self.rank_depth}"


@dataclass(frozen=True, eq=False)
class Measured:
    """What one setting gave on E requests."""

    ndcg: Float64  # [E]
    cpu_ms: float  # of one request: median of batches of BATCH


def effort_curve(run: Path, *, requests: int = 2000, show_progress: bool = False) -> dict[str, Any]:
    """Measure every setting on at most `requests` validation and test examples each; plain numbers, ready for JSON."""
    split, features = load_served_split(run)
    cascade = Cascade.load(run / "bundle")
    cascade.warm_up()
    settings = list(settings_of(cascade))
    with threadpool_limits(1):
        validation, test = (
            measure(cascade, features, warm(part, requests), settings, show_progress=show_progress)
            for part in (split.validation, split.test)
        )
    people = warm(split.validation, requests).users
    losses = {s: paired_difference(validation[s].ndcg, validation[_best(validation)].ndcg, people) for s in settings}
    chosen = knee(losses, validation)
    return {
        "requests": len(next(iter(test.values())).ndcg),
        "tolerated": TOLERATED,
        "configured": asdict(Setting(1.0, cascade.config.candidates, cascade.config.rank_depth)),
        "knee": asdict(chosen),
        "settings": [
            {
                **asdict(s),
                f"ndcg@{TOP}": float(test[s].ndcg.mean()),
                "cpu_ms": test[s].cpu_ms,
                "lost_on_validation": losses[s].to_json(),
                "on_front": s in front(test),
                "knee": s == chosen,
            }
            for s in sorted(settings, key=lambda s: test[s].cpu_ms)
        ],
    }


def settings_of(cascade: Cascade) -> Iterator[Setting]:
    """The grid: where nothing is to be searched by cells, only candidates and depth."""
    for cells in CELLS if cascade.retrieve.nprobe else CELLS[:1]:
        for candidates in CANDIDATES:
            for depth in DEPTHS:
                if depth <= candidates <= len(cascade.catalog):
                    yield Setting(cells, candidates, depth)


def warm(examples: Examples, most: int) -> Examples:
    """At most so many of the examples that have a history: others take no effort."""
    return examples.subset(np.flatnonzero(examples.positions > 0)).sample(most, seed=0)


def measure(
    cascade: Cascade, features: Features, examples: Examples, settings: Sequence[Setting], *, show_progress: bool
) -> dict[Setting, Measured]:
    """Answer every example under every setting, in random turn for each batch. The user tower is not counted."""
    shuffle, targets = random.Random(0).shuffle, examples.targets()
    values: dict[Setting, list[Float64]] = {s: [] for s in settings}
    seconds: dict[Setting, list[float]] = {s: [] for s in settings}
    turn = list(settings)
    for start, stop in progress(list(batches(examples, BATCH)), "effort", show_progress):
        users = user_batch(cascade.users, features, examples, start, stop)
        shuffle(turn)
        for setting in turn:
            began = time.process_time()
            rows = slates(cascade, users, setting)
            seconds[setting].append((time.process_time() - began) / (stop - start))
            values[setting].append(ndcg(target_ranks(rows, targets[start:stop]), TOP))
    return {s: Measured(np.concatenate(values[s]), 1e3 * float(np.median(seconds[s]))) for s in settings}


def slates(cascade: Cascade, users: UserBatch, setting: Setting) -> Int32:
    """Rows [B, TOP] of the slates under a setting, by relevance alone."""
    candidates = cascade.retrieve(users, setting.candidates, setting.cells)
    candidates = cascade.rank(users, cascade.filter(users, candidates, setting.rank_depth), setting.rank_depth)
    picks = cascade.diversify(candidates, "rank", np.zeros(len(users), np.float32), TOP)
    found: Int32 = np.where(picks >= 0, np.take_along_axis(candidates.rows, np.maximum(picks, 0), axis=1), np.int32(-1))
    return found


def front(measured: Mapping[Setting, Measured]) -> list[Setting]:
    """The settings that no cheaper one equals or beats, the cheapest first."""
    found: list[Setting] = []
    for setting in sorted(measured, key=lambda s: measured[s].cpu_ms):
        if not found or measured[setting].ndcg.mean() > measured[found[-1]].ndcg.mean():
            found.append(setting)
    return found


def knee(losses: Mapping[Setting, Interval], measured: Mapping[Setting, Measured]) -> Setting:
    """The cheapest setting that surely loses no more than TOLERATED against the best."""
    good = [setting for setting, loss in losses.items() if loss.low >= -TOLERATED]
    return min(good, key=lambda s: measured[s].cpu_ms)


def _best(measured: Mapping[Setting, Measured]) -> Setting:
    return max(measured, key=lambda s: float(measured[s].ndcg.mean()))


def table(report: Mapping[str, Any]) -> Table:
    """The front, the configured setting and the knee for the terminal, the cheapest first."""
    shown = Table(
        "cells", "candidates", "rank depth", "CPU-ms", f"NDCG@{TOP}", "lost on validation", "",
        title=f"{report['requests']:,} test requests in batches of {BATCH}, one thread",
        caption=f"knee: the cheapest that surely loses at most {report['tolerated']} on validation",
    )  # fmt: skip
    for line in report["settings"]:
        setting = {name: line[name] for name in ("cells", "candidates", "rank_depth")}
        configured = setting == report["configured"]
        if not (line["on_front"] or line["knee"] or configured):
            continue
        lost = line["lost_on_validation"]
        notes = [name for name, given in (("knee", line["knee"]), ("configured", configured)) if given]
        shown.add_row(
            f"{line['cells']:g} ×", str(line["candidates"]), str(line["rank_depth"]), f"{line['cpu_ms']:.3f}",
            f"{line[f'ndcg@{TOP}']:.4f}", f"{lost['mean']:+.4f} ({lost['low']:+.4f} … {lost['high']:+.4f})",
            ", ".join(notes),
        )  # fmt: skip
    return shown


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw the curve as a PNG: every setting, and the front through the best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    points = [(s["cpu_ms"], s[f"ndcg@{TOP}"], s) for s in report["settings"]]
    best = [p for p in points if p[2]["on_front"]]
    axes.plot([p[0] for p in points], [p[1] for p in points], ".", color="#8d99ae", label="settings")
    axes.plot([p[0] for p in best], [p[1] for p in best], "o-", color="#0b6e4f", label="front")
    x, y, s = next(p for p in points if p[2]["knee"])
    axes.annotate(
        f"knee: {Setting(s['cells'], s['candidates'], s['rank_depth'])}", (x, y), (8, -14), textcoords="offset points"
    )
    axes.set_xlabel("CPU-ms per request")
    axes.set_ylabel(f"NDCG@{TOP}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
