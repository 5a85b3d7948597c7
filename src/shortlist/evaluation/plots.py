"""The report's pictures, drawn by matplotlib without a display and returned as data URIs for an <img>."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.slices import Slice

COLOURS = ("#0b6e4f", "#1f77b4", "#d1495b", "#edae49", "#66518c", "#8d99ae", "#3d405b", "#81b29a", "#f4978e", "#a47148")
WIDTH = 8.6


def bars_by_group(groups: Sequence[Slice], title: str, metric: str) -> str:
    """Grouped bars: one group per slice, one colour per model. Returns a data URI."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    models = list(groups[0].values) if groups else []
    width = 0.82 / max(len(models), 1)
    for index, model in enumerate(models):
        offsets = np.arange(len(groups)) + (index - (len(models) - 1) / 2) * width
        heights = [group.values[model] for group in groups]
        axes.bar(offsets, heights, width, label=model, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(len(groups)), [f"{group.label}\nn={group.examples:,}" for group in groups], fontsize=8)
    axes.set_xlabel(title)
    axes.set_ylabel(metric)
    if models:
        axes.legend(fontsize=8, ncols=min(4, len(models)), frameon=False)
    return _data_uri(figure)


def forest(reference: str, differences: Mapping[str, Mapping[str, Interval]], metric: str) -> str:
    """Forest plot of reference - other with its 95 % interval. Returns a data URI, or "" where nothing is compared."""
    rows = [(other, metrics[metric]) for other, metrics in differences.items() if metric in metrics]
    if not rows:
        return ""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, interval) in enumerate(rows):
        colour = COLOURS[0] if interval.low > 0 else COLOURS[2] if interval.high < 0 else COLOURS[5]
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.5)
        axes.plot([interval.mean], [place], "o", color=colour)
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{reference} − {other}" for other, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {metric.upper()}")
    return _data_uri(figure)


def _data_uri(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
