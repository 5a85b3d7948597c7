"""`make reproduce`: trains and evaluates seeds × protocols and writes the table of results as Markdown.

Each finished evaluation leaves its per-example values beside its report, so an interrupted run goes on where it
stopped. Intervals resample users over the examples of all seeds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shortlist.config import Config, Protocol
from shortlist.evaluation.bootstrap import Interval, paired_differences
from shortlist.evaluation.experiment import Experiment, evaluate_run
from shortlist.evaluation.metrics import PerExample
from shortlist.types import Int32

METRICS = ("hr@10", "ndcg@10")
Values = dict[str, PerExample]  # model -> metric -> [E]


def reproduce(
    config_path: Path, seeds: Sequence[int], protocols: Sequence[Protocol], out: Path, *, show_progress: bool = True
) -> Path:
    """Train and evaluate every seed under every protocol in folders of `out`; returns the Markdown file written."""
    config = Config.read(config_path)
    columns: dict[str, list[tuple[Values, Int32]]] = {}
    for protocol in protocols:
        for seed in seeds:
            run = out / f"{protocol}-seed{seed}"
            columns.setdefault(protocol, []).append(_values(config, protocol, seed, run, show_progress))
    table = out / "results.md"
    table.write_text(markdown(columns), encoding="utf-8")
    return table


def markdown(columns: dict[str, list[tuple[Values, Int32]]]) -> str:
    """Two tables from the (values, users) of each protocol's seeds: means, and differences from the first model."""
    seeds = max(len(of_protocol) for of_protocol in columns.values())
    header = [f"{protocol} {metric.upper()}" for protocol in columns for metric in METRICS]
    means: dict[str, list[str]] = {}
    differences: dict[str, list[str]] = {}
    reference = ""
    for of_protocol in columns.values():
        models = list(of_protocol[0][0])
        reference = models[0]
        for model in models:
            means.setdefault(model, []).extend(_mean(of_protocol, model, metric) for metric in METRICS)
        for other, interval in pooled_differences(of_protocol, "ndcg@10").items():
            differences.setdefault(other, []).append(_interval(interval))
    return "\n\n".join(
        [
            f"Mean (standard deviation) of {seeds} seeds:",
            _table(["model", *header], means),
            f"NDCG@10 of {reference} minus each other model, 95 % paired bootstrap interval over users, all seeds:",
            _table([f"{reference} −", *columns], differences),
            "",
        ]
    )


def pooled_differences(seeds: list[tuple[Values, Int32]], metric: str) -> dict[str, Interval]:
    """Interval of first model - other for every other model, over the examples of all seeds, resampled by user."""
    models = list(seeds[0][0])
    pooled = {name: {metric: np.concatenate([values[name][metric] for values, _ in seeds])} for name in models}
    users = np.concatenate([users for _, users in seeds])
    ours = pooled.pop(models[0])
    return {other: intervals[metric] for other, intervals in paired_differences(ours, pooled, users).items()}


def save_values(experiment: Experiment, path: Path) -> None:
    """Keep the table's per-example values as a plain .npz."""
    arrays = {
        f"{result.name}/{metric}": result.per_example[metric] for result in experiment.results for metric in METRICS
    }
    np.savez_compressed(path, users=experiment.users, **arrays)


def load_values(path: Path) -> tuple[Values, Int32]:
    """Read what `save_values` wrote."""
    values: Values = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            if key != "users":
                model, metric = key.rsplit("/", 1)
                values.setdefault(model, {})[metric] = stored[key]
        return values, stored["users"]


def _values(config: Config, protocol: Protocol, seed: int, run: Path, show_progress: bool) -> tuple[Values, Int32]:
    from shortlist.training.run import train

    path = run / "evaluation" / f"{protocol}.npz"
    if not path.exists():
        split = config.split.model_copy(update={"protocol": protocol})
        train(config.model_copy(update={"seed": seed, "split": split}), run)
        experiment = evaluate_run(run, protocol, show_progress=show_progress)
        experiment.evaluation.write(path.parent)
        save_values(experiment, path)
    return load_values(path)


def _mean(seeds: list[tuple[Values, Int32]], model: str, metric: str) -> str:
    means = [float(values[model][metric].mean()) for values, _ in seeds]
    return f"{np.mean(means):.4f} ({np.std(means):.4f})"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _table(header: list[str], rows: dict[str, list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([name, *cells] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
