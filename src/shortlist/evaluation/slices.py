"""Groups of examples, by history length and by the target's popularity, with each model's NDCG@10 in each group.

A mean hides where a model earns it: baselines live on popular targets and long histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortlist.evaluation.metrics import Float64
from shortlist.types import Bool, Int64

HISTORY_EDGES = (0, 1, 3, 6, 11, 21, 51, 101, 201)  # each group starts here
GROUPS = 10


@dataclass(frozen=True)
class Slice:
    """One group of examples."""

    label: str
    examples: int
    values: dict[str, float]  # model -> mean of the metric

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return {"label": self.label, "examples": self.examples, "ndcg@10": self.values}


def by_history_length(lengths: Int64, metric: Mapping[str, Float64]) -> list[Slice]:
    """Means of `metric` (model -> [E]) over examples grouped by history length [E]; empty groups are left out."""
    ends = (*HISTORY_EDGES[1:], None)
    groups = []
    for start, end in zip(HISTORY_EDGES, ends, strict=True):
        if end is None:
            label, mask = f"≥ {start}", lengths >= start
        else:
            label = str(start) if end == start + 1 else f"{start}–{end - 1}"
            mask = (lengths >= start) & (lengths < end)
        groups.append((label, mask))
    return _slices(groups, metric)


def by_popularity_decile(popularity: Int64, metric: Mapping[str, Float64]) -> list[Slice]:
    """Means over ten groups of about as many examples each, from unpopular to popular targets [E].

    Labelled with the range of the targets' training events; deciles that fall on one value merge.
    """
    edges = np.unique(np.quantile(popularity, np.linspace(0, 1, GROUPS + 1)[1:-1], method="higher"))
    decile = np.searchsorted(edges, popularity, side="left")
    groups = []
    for group in np.unique(decile):
        mask = decile == group
        low, high = popularity[mask].min(), popularity[mask].max()
        groups.append((str(low) if low == high else f"{low}–{high}", mask))
    return _slices(groups, metric)


def _slices(groups: list[tuple[str, Bool]], metric: Mapping[str, Float64]) -> list[Slice]:
    return [
        Slice(label, int(mask.sum()), {model: float(values[mask].mean()) for model, values in metric.items()})
        for label, mask in groups
        if mask.any()
    ]
