"""An evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shortlist.evaluation.report import BEYOND, HEADLINE, Evaluation, table


def print_evaluation(evaluation: Evaluation, written: Iterable[Path] = (), console: Console | None = None) -> None:
    """Print models, differences and stages, and where the report was written."""
    console = console or Console()
    users = f"{evaluation.examples:,} events of {evaluation.users:,} users"
    console.print(_models(evaluation, HEADLINE, f"{evaluation.protocol}: {users}"))
    console.print(_models(evaluation, BEYOND))
    if evaluation.differences:
        console.print(_differences(evaluation))
    if evaluation.stages:
        console.print(_stages(evaluation))
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)


def _models(evaluation: Evaluation, metrics: tuple[str, ...], title: str | None = None) -> Table:
    content = table(evaluation.models, metrics)
    shown = Table("model", *content["columns"], title=title)
    for name, cells in content["rows"].items():
        shown.add_row(name, *("–" if value is None else f"{value:.4f}" for value, _ in cells))
    return shown


def _differences(evaluation: Evaluation) -> Table:
    shown = Table(f"{evaluation.reference} −", "NDCG@10", "95 % interval")
    for other, metrics in evaluation.differences.items():
        interval = metrics["ndcg@10"]
        shown.add_row(other, f"{interval.mean:+.4f}", f"{interval.low:+.4f} … {interval.high:+.4f}")
    return shown


def _stages(evaluation: Evaluation) -> Table:
    shown = Table("stage", "metric", "value")
    for stage, metrics in evaluation.stages.items():
        for metric, value in metrics.items():
            shown.add_row(stage, metric, f"{value:.4f}")
    return shown
