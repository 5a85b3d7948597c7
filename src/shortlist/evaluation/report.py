"""The outcome of an evaluation: as JSON for machines, and as one self-contained HTML page for people.

Holds numbers only; `plots` draws them, `report.html.j2` lays them out, `shortlist.evaluation.experiment` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.plots import bars_by_group, forest
from shortlist.evaluation.slices import Slice

HEADLINE = ("ndcg@10", "hr@10", "mrr@10", "ndcg@50", "hr@50", "auc")
BEYOND = ("coverage@10", "novelty@10", "serendipity@10", "diversity@10")
COMPARED = ("ndcg@10", "hr@10", "mrr@10")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that one evaluation found."""

    protocol: str
    examples: int
    users: int
    models: dict[str, dict[str, float]]
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""  # the model that the others are compared with
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)  # other -> metric -> reference - other
    slices: dict[str, list[Slice]] = field(default_factory=dict)  # title -> groups of examples
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object."""
        return {
            "protocol": self.protocol,
            "examples": self.examples,
            "users": self.users,
            "models": self.models,
            "stages": self.stages,
            "parity": dict(self.parity),
            "differences": {
                f"{self.reference} - {other}": {metric: interval.to_json() for metric, interval in metrics.items()}
                for other, metrics in self.differences.items()
            },
            "slices": {title: [group.to_json() for group in groups] for title, groups in self.slices.items()},
        }

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `<protocol>.json` and `<protocol>.html` into `folder`; returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        as_json, as_html = folder / f"{self.protocol}.json", folder / f"{self.protocol}.html"
        as_json.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        as_html.write_text(render(self), encoding="utf-8")
        return as_json, as_html


def render(evaluation: Evaluation) -> str:
    """One HTML page with its style and plots inside."""
    environment = Environment(
        loader=PackageLoader("shortlist.evaluation", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        tables={
            "Accuracy": table(evaluation.models, HEADLINE),
            "Beyond accuracy": table(evaluation.models, BEYOND),
        },
        stages=[(stage, metric, value) for stage, rows in evaluation.stages.items() for metric, value in rows.items()],
        parity=flat(evaluation.parity),
        compared=COMPARED,
        difference_plot=forest(evaluation.reference, evaluation.differences, "ndcg@10"),
        slice_plots={title: bars_by_group(groups, title, "NDCG@10") for title, groups in evaluation.slices.items()},
    )


def table(models: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...]) -> dict[str, Any]:
    """Columns that any model has, and a row of cells per model; the best of each column is marked."""
    columns = [metric for metric in metrics if any(metric in values for values in models.values())]
    best = {metric: max(values[metric] for values in models.values() if metric in values) for metric in columns}
    rows = {
        name: [(values.get(metric), values.get(metric) == best[metric]) for metric in columns]
        for name, values in models.items()
    }
    return {"columns": columns, "rows": rows}


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted name, value) rows."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        rows.extend(flat(value, f"{path}.") if isinstance(value, Mapping) else [(path, value)])
    return rows
