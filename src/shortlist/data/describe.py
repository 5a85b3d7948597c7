"""A data set in figures: sizes, sparsity, time, repeats, events, attributes, and how popularity and lengths spread.

Only numbers and one PNG are made here; `shortlist.cli.data` prints them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.data.dataset import Dataset
from shortlist.data.log import InteractionLog
from shortlist.data.validate import count_reasons

BINS = 12


@dataclass(frozen=True)
class Histogram:
    """How many things (items, users) have a count between two edges, both included."""

    low: list[int]
    high: list[int]
    things: list[int]


@dataclass(frozen=True)
class Description:
    """What `shortlist data describe` shows."""

    interactions: int
    users: int
    items: int
    items_without_interaction: int
    sparsity: float  # share of user-item pairs that never met
    repeat_rate: float
    first: str | None  # ISO 8601, UTC
    last: str | None
    events: dict[str, int]
    mean_value: float | None
    attributes: dict[str, dict[str, str]]  # item, user, context -> name -> kind
    rejected: dict[str, int]  # by reason
    history_length: dict[str, float]  # of users with at least one event
    popularity: dict[str, float]  # of items with at least one event
    gini: float  # of popularity: 0 is equal, 1 is one item only
    length_histogram: Histogram
    popularity_histogram: Histogram
    fingerprint: str

    def to_document(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def describe(dataset: Dataset) -> Description:
    """Measure a data set."""
    log = dataset.log()
    popularity, lengths = log.popularity(), log.lengths()
    first, last = _span(log)
    values = log.values[np.isfinite(log.values)]
    pairs = round(len(log) * (1 - log.repeat_rate()))
    return Description(
        interactions=len(log),
        users=log.n_users,
        items=log.n_items,
        items_without_interaction=int((popularity == 0).sum()),
        sparsity=1 - pairs / max(log.n_users * log.n_items, 1),
        repeat_rate=log.repeat_rate(),
        first=first,
        last=last,
        events=dict(zip(log.event_names, np.bincount(log.events).tolist(), strict=True)),
        mean_value=float(values.mean()) if len(values) else None,
        attributes={
            "item": dict(dataset.item_attributes),
            "user": dict(dataset.user_attributes),
            "context": dict(dataset.context_attributes),
        },
        rejected=count_reasons(dataset.rejected),
        history_length=_quantiles(lengths[lengths > 0]),
        popularity=_quantiles(popularity[popularity > 0]),
        gini=gini(popularity),
        length_histogram=histogram(lengths[lengths > 0]),
        popularity_histogram=histogram(popularity[popularity > 0]),
        fingerprint=dataset.fingerprint(),
    )


def histogram(counts: NDArray[np.int64], bins: int = BINS) -> Histogram:
    """Counts of at least 1 in at most `bins` bins whose width grows by a constant factor."""
    if not len(counts):
        return Histogram([], [], [])
    edges = np.unique(np.rint(np.geomspace(int(counts.min()), int(counts.max()) + 1, bins + 1)).astype(np.int64))
    things, _ = np.histogram(counts, edges)
    return Histogram(edges[:-1].tolist(), (edges[1:] - 1).tolist(), things.tolist())


def gini(counts: NDArray[np.int64]) -> float:
    """Inequality of counts: 0 where all are equal."""
    total = int(counts.sum())
    if not total:
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (len(counts) * total) - (len(counts) + 1) / len(counts))


def draw(description: Description, path: Path) -> None:
    """Draw both histograms into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    panels = (
        (left, description.length_histogram, "events of a user", "users"),
        (right, description.popularity_histogram, "events of an item", "items"),
    )
    for axes, data, label, things in panels:
        axes.bar(range(len(data.things)), data.things, color="#3b6ea5")
        names = [f"{low}" if low == high else f"{low}–{high}" for low, high in zip(data.low, data.high, strict=True)]
        axes.set_xticks(range(len(names)), names, rotation=60, fontsize=7)
        axes.set(xlabel=label, ylabel=things)
    d = description
    figure.suptitle(f"{d.interactions:,} interactions, {d.users:,} users, {d.items:,} items")
    figure.savefig(path, dpi=120)


def _span(log: InteractionLog) -> tuple[str | None, str | None]:
    if not log.has_timestamps or not len(log):
        return None, None
    first, last = (datetime.fromtimestamp(int(t), UTC) for t in (log.timestamps.min(), log.timestamps.max()))
    return first.isoformat(), last.isoformat()


def _quantiles(counts: NDArray[np.int64]) -> dict[str, float]:
    if not len(counts):
        return {}
    names = {"min": 0.0, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {"mean": float(counts.mean()), **{name: float(np.quantile(counts, q)) for name, q in names.items()}}
