"""What alternatives to a run's filter cost and keep: fewer units, other numbers, the linear part alone, no student.

All of them choose among the same candidates, which the run's own cascade retrieves and its ranker has scored in full.
So their retention and the quality of the cascade around them are compared example by example. How they are made is
the business of `shortlist.evaluation.student_variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from threadpoolctl import threadpool_limits

from shortlist.cascade import Cascade
from shortlist.config import CascadeConfig
from shortlist.data.features import Features
from shortlist.data.splits import Examples
from shortlist.evaluation.bootstrap import Interval, paired_differences
from shortlist.evaluation.metrics import Float64, PerExample, ndcg, target_ranks
from shortlist.evaluation.progress import progress
from shortlist.evaluation.protocols import batches
from shortlist.evaluation.stages import retention
from shortlist.evaluation.student_variants import SHIPPED, Variant, make_variants
from shortlist.kernels.timing import interleaved
from shortlist.profiles.replay import user_batch
from shortlist.training.run import load_served_split
from shortlist.types import Candidates, Float32, Int32, UserBatch

TOP = 10
BATCH = 64
TOLERATED = 0.001  # NDCG@10 that a cheaper variant may lose on validation, at the worse end of the interval
Cut = tuple[int, int]  # candidates -> kept


@dataclass(frozen=True, eq=False)
class Judged:
    """Requests with a history (E of them), what retrieval finds for each, and the ranker's scores of all of it."""

    users: UserBatch
    candidates: Candidates  # [E, N]
    ranker: Float32  # [E, N], -inf at padding
    targets: Int32  # [E] the item that came next
    people: Int32  # [E] user of each request

    @classmethod
    def read(cls, cascade: Cascade, features: Features, examples: Examples) -> Judged:
        """Send `examples` through retrieval and ranker; cold starts, which no filter sees, are left out."""
        examples = examples.subset(np.flatnonzero(examples.positions > 0))
        users = user_batch(cascade.users, features, examples, 0, len(examples))
        found, scores = [], []
        for start, stop in batches(examples, BATCH):
            part = users.take(np.arange(start, stop))
            found.append(cascade.retrieve(part, cascade.config.candidates))
            scores.append(cascade.rank.score(part, found[-1]))
        rows, fused, channels = (
            np.concatenate([getattr(part, name) for part in found]) for name in ("rows", "scores", "channels")
        )
        candidates = Candidates(rows, fused, channels)
        return cls(users, candidates, np.concatenate(scores), examples.targets(), examples.users)

    def __len__(self) -> int:
        return len(self.users)

    def part(self, start: int, stop: int) -> tuple[UserBatch, Candidates]:
        """Users and candidates of requests start:stop."""
        found = self.candidates
        some = slice(start, stop)
        index = np.arange(len(self))[some]
        return self.users.take(index), Candidates(found.rows[some], found.scores[some], found.channels[some])


def compare_students(run: Path, *, rounds: int = 100, show_progress: bool = False) -> dict[str, Any]:
    """Make and measure every variant of a run's filter; plain numbers, ready for JSON.

    `rounds` are those of the timing. For each cut, `chosen` is the cheapest variant that is good enough on validation;
    all other figures are of the test.
    """
    split, features = load_served_split(run)
    cascade = Cascade.load(run / "bundle")
    variants = make_variants(run, show_progress=show_progress)
    validation, test = (Judged.read(cascade, features, part) for part in (split.validation, split.test))
    cuts, microseconds = cuts_of(cascade.config), time_variants(variants, cascade, test, rounds)
    chosen_on, measured_on = (
        {variant.name: measure(variant, judged, cuts) for variant in progress(variants, title, show_progress)}
        for title, judged in (("validation", validation), ("test", test))
    )
    losses, gains = differences(chosen_on, validation.people), differences(measured_on, test.people)
    return {
        "requests": len(test),
        "shipped": SHIPPED,
        "tolerated": TOLERATED,
        "cuts": [label(cut) for cut in cuts],
        "students": [
            {
                "name": variant.name,
                "hidden": list(variant.hidden),
                "precision": variant.precision,
                "parameters": variant.parameters,
                "graph_bytes": len(variant.graph),
                "us_per_request": microseconds[variant.name],
                **means(measured_on[variant.name]),
                "difference": {name: interval.to_json() for name, interval in gains[variant.name].items()},
            }
            for variant in variants
        ],
        "chosen": {label(cut): cheapest(losses, microseconds, f"ndcg@{TOP}:{label(cut)}") for cut in cuts},
        f"unfiltered_ndcg@{TOP}": float(cascade_ndcg(test, test.ranker, (cuts[0][0],) * 2).mean()),
        "ranker_us": {str(n): microseconds[f"ranker {n}"] for n in ranked_depths(cascade.config)},
    }


def differences(values: Mapping[str, PerExample], people: Int32) -> dict[str, dict[str, Interval]]:
    """Interval of variant - shipped for every variant and metric."""
    shipped = {SHIPPED: values[SHIPPED]}
    return {name: paired_differences(own, shipped, people)[SHIPPED] for name, own in values.items()}


def cheapest(
    losses: Mapping[str, Mapping[str, Interval]], microseconds: Mapping[str, float | None], metric: str
) -> str:
    """The fastest variant that surely loses no more than TOLERATED of `metric` against the shipped one."""
    times = {name: time for name in losses if (time := microseconds[name]) is not None}
    good = [name for name in times if losses[name][metric].low >= -TOLERATED]
    return min(good, key=times.__getitem__)


def means(values: PerExample) -> dict[str, float]:
    """Every metric as one number."""
    return {name: float(value.mean()) for name, value in values.items()}


def cuts_of(config: CascadeConfig) -> list[Cut]:
    """The deployed cut, the same share of fewer candidates, and harder ones, which tell filters apart."""
    candidates, kept = config.candidates, config.rank_depth
    harder = [max(1, round(kept * share)) for share in (0.3, 0.15)]
    return [(candidates, kept), (max(1, 2 * candidates // 5), max(1, kept // 2)), *((candidates, k) for k in harder)]


def measure(variant: Variant, judged: Judged, cuts: Sequence[Cut]) -> PerExample:
    """Retention and NDCG of the cascade at each cut, [E] each, with this variant as the filter."""
    parts = (variant.score(*judged.part(start, start + BATCH)) for start in range(0, len(judged), BATCH))
    scores = np.concatenate(list(parts))
    values: PerExample = {}
    for cut in cuts:
        n, keep = cut
        values[f"retention@{TOP}:{label(cut)}"] = retention(judged.ranker[:, :n], scores[:, :n], keep, TOP)
        values[f"ndcg@{TOP}:{label(cut)}"] = cascade_ndcg(judged, scores, cut)
    return values


def cascade_ndcg(judged: Judged, scores: Float32, cut: Cut) -> Float64:
    """NDCG of the ranker's order of what a filter with these scores [E, N] lets pass, [E]; no diversification."""
    n, keep = cut
    kept = np.argsort(-scores[:, :n], axis=1, kind="stable")[:, :keep]
    ranked = np.argsort(-np.take_along_axis(judged.ranker, kept, axis=1), axis=1, kind="stable")[:, :TOP]
    rows = np.take_along_axis(judged.candidates.rows, np.take_along_axis(kept, ranked, axis=1), axis=1)
    return ndcg(target_ranks(rows, judged.targets), TOP)


def time_variants(
    variants: Sequence[Variant], cascade: Cascade, judged: Judged, rounds: int
) -> dict[str, float | None]:
    """Microseconds of one request through kernel and graph, and through the ranker at the depths that matter.

    Medians of one interleaved run on one thread; None for what this machine only emulates, 0 where nothing is computed.
    """
    requests = [judged.part(i, i + 1) for i in range(min(BATCH, len(judged)))]

    def on_requests(score: Callable[[UserBatch, Candidates], Float32], depth: int) -> Callable[[], Float32]:
        given = cycle([(users, candidates.head(depth)) for users, candidates in requests])
        return lambda: score(*next(given))

    count = cascade.config.candidates
    cases = {
        variant.name: on_requests(variant.score, count)
        for variant in variants
        if variant.given and not variant.emulated
    }
    cases.update({f"ranker {n}": on_requests(cascade.rank.score, n) for n in ranked_depths(cascade.config)})
    with threadpool_limits(1):
        seconds = interleaved(cases, rounds)
    idle = {variant.name: None if variant.emulated else 0.0 for variant in variants}
    return idle | {name: 1e6 * value for name, value in seconds.items()}


def ranked_depths(config: CascadeConfig) -> list[int]:
    """How many candidates the ranker scores behind the filter, and without one."""
    return sorted({config.rank_depth, config.candidates})


def label(cut: Cut) -> str:
    """`500->100` and the like."""
    return f"{cut[0]}->{cut[1]}"


def table(report: Mapping[str, Any]) -> Table:
    """The report for the terminal: a line for each variant, and below what would have been chosen."""
    ranker = ", ".join(f"{time:,.0f} µs for {n}" for n, time in report["ranker_us"].items())
    chosen = "; ".join(f"{cut} {name}" for cut, name in report["chosen"].items())
    first, last = report["cuts"][0], report["cuts"][-1]
    shown = Table(
        "filter", "parameters", "graph kB", "µs", *(f"retention@{TOP} {cut}" for cut in report["cuts"]),
        *(f"{kind} {cut}" for cut in (first, last) for kind in (f"NDCG@{TOP}", "− shipped")),
        title=f"{report['requests']:,} test requests, one at a time; the ranker takes {ranker} candidates",
        caption=f"cheapest that surely loses at most {report['tolerated']} NDCG@{TOP} on validation: {chosen}",
    )  # fmt: skip
    for student in report["students"]:
        time = student["us_per_request"]
        shown.add_row(
            student["name"] + (" (ships)" if student["name"] == report["shipped"] else ""),
            f"{student['parameters']:,}",
            f"{student['graph_bytes'] / 1000:.1f}",
            "emulated" if time is None else f"{time:,.0f}",
            *(f"{student[f'retention@{TOP}:{cut}']:.4f}" for cut in report["cuts"]),
            *(cell for cut in (first, last) for cell in _quality(student, f"ndcg@{TOP}:{cut}")),
        )
    return shown


def _quality(student: Mapping[str, Any], metric: str) -> tuple[str, str]:
    mean, low, high = (student["difference"][metric][name] for name in ("mean", "low", "high"))
    difference = f"{mean:+.4f} ({low:+.4f} … {high:+.4f})" if low or high else "equal"
    return f"{student[metric]:.4f}", difference
