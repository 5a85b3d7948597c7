"""The report of a load test: one HTML file with pictures of this run in colour and of the one before in grey.

The numbers come from `record`; nothing is measured here.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shortlist.errors import ShortlistError
from shortlist.evaluation.plots import COLOURS, WIDTH

Run = dict[str, Any]
LATENCIES = {"p50_ms": "p50", "p95_ms": "p95", "p99_ms": "p99"}
EARLIER = "#b8bfc6"


def write_report(run: Run, before: Run | None, path: Path) -> Path:
    """Draw `run`, and the one `before` if there is one, into the file `path`.

    Raises ShortlistError when the run has no seconds.
    """
    if not run["seconds"]:
        raise ShortlistError("the load test ended before its first second; give it a longer DURATION")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    bad, errors = (_added(run, kind) for kind in ("bad", "errors"))
    text = environment.get_template("report.html.j2").render(
        settings=run["settings"],
        rows=_compared(totals(run), totals(before) if before else None),
        earlier=before is not None,
        pictures=_pictures(run, before),
        bad=bad,
        errors=errors,
    )
    path.write_text(text, encoding="utf-8")
    return path


def totals(run: Run) -> dict[str, float | None]:
    """Medians over the seconds of a run (of p99 the worst second too), and shares over all of it."""
    seconds = run["seconds"]
    answered, late = (sum(s[name] for s in seconds) for name in ("per_second", "late_per_second"))
    return {
        "answers a second": _median(s["per_second"] for s in seconds),
        "p50, ms": _median(s["p50_ms"] for s in seconds),
        "p95, ms": _median(s["p95_ms"] for s in seconds),
        "p99, ms": _median(s["p99_ms"] for s in seconds),
        "p99 of the worst second, ms": max((s["p99_ms"] for s in seconds if s["p99_ms"] is not None), default=None),
        "refused as late, %": 100 * late / (answered + late) if answered + late else None,
        "failed": float(sum(_added(run, "errors").values())),
        "server CPU, cores": _median(s["server"]["cores"] for s in seconds),
        "server memory, MB": max((m for s in seconds if (m := s["server"]["memory_mb"]) is not None), default=None),
        "in Triton's queue, ms": _median(s["server"]["queue_ms"] for s in seconds),
    }


def _pictures(run: Run, before: Run | None) -> dict[str, str]:
    """Title -> SVG."""
    return {
        "Throughput and latency": _drawn(run, before, _throughput_against_latency),
        "Second by second": _drawn(run, before, _over_time, height=5.2, rows=2),
        "Share of the stages": _drawn(run, before, _stages),
        "Server CPU and memory": _drawn(run, before, _machine, height=4.6, rows=2),
        "Triton's queue": _drawn(run, before, _queue),
    }


def _drawn(
    run: Run, before: Run | None, draw: Callable[[Sequence[Axes], Run, bool], None], height: float = 3.4, rows: int = 1
) -> str:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    if before:
        draw(axes, before, True)
    draw(axes, run, False)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        if one.get_legend_handles_labels()[0]:
            one.legend(fontsize=8, frameon=False, ncols=5)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _throughput_against_latency(axes: Sequence[Axes], run: Run, earlier: bool) -> None:
    """A point for each second: answers against the time of half, of 95 % and of 99 % of them."""
    rates = [s["per_second"] for s in run["seconds"]]
    for colour, (name, label) in zip(COLOURS, LATENCIES.items(), strict=False):
        axes[0].plot(rates, _column(run, name), "o", markersize=4, **_style(colour, label, earlier))
    axes[0].set_xlabel("answers a second")
    axes[0].set_ylabel("ms")
    axes[0].set_yscale("log")


def _over_time(axes: Sequence[Axes], run: Run, earlier: bool) -> None:
    for colour, name, label in (
        (COLOURS[0], "per_second", "answers a second"),
        (COLOURS[2], "late_per_second", "refused as late"),
        (COLOURS[3], "bad_per_second", "bad requests"),
        (COLOURS[5], "users", "users"),
    ):
        axes[0].plot(_column(run, name), **_style(colour, label, earlier))
    for colour, (name, label) in zip(COLOURS, LATENCIES.items(), strict=False):
        axes[1].plot(_column(run, name), **_style(colour, label, earlier))
    axes[1].set_xlabel("seconds")
    axes[1].set_ylabel("ms")


def _stages(axes: Sequence[Axes], run: Run, earlier: bool) -> None:
    """One bar a run: what share of the cascade's time each stage took."""
    spent: Counter[str] = Counter()
    for second in run["seconds"]:
        spent.update(second["server"]["stages"])
    whole, left = sum(spent.values()) or 1.0, 0.0
    for colour, (stage, seconds) in zip(COLOURS, spent.items(), strict=False):
        label = None if earlier else f"{stage} {100 * seconds / whole:.0f} %"
        axes[0].barh("before" if earlier else "now", seconds / whole, left=left, color=colour, label=label)
        left += seconds / whole
    axes[0].set_xlim(0, 1.0)
    axes[0].set_xlabel("share of the time in the cascade")


def _machine(axes: Sequence[Axes], run: Run, earlier: bool) -> None:
    axes[0].plot(_column(run, "cores", "server"), **_style(COLOURS[0], "cores in use", earlier))
    axes[1].plot(_column(run, "memory_mb", "server"), **_style(COLOURS[1], "resident memory, MB", earlier))
    axes[1].set_xlabel("seconds")


def _queue(axes: Sequence[Axes], run: Run, earlier: bool) -> None:
    axes[0].plot(_column(run, "queue_ms", "server"), **_style(COLOURS[4], "ms a request waits in Triton", earlier))
    axes[0].set_xlabel("seconds")
    axes[0].set_ylabel("ms")


def _style(colour: str, label: str, earlier: bool) -> dict[str, Any]:
    return {"color": EARLIER, "zorder": 1} if earlier else {"color": colour, "label": label, "zorder": 2}


def _column(run: Run, name: str, part: str | None = None) -> list[float]:
    values = [(s[part] if part else s)[name] for s in run["seconds"]]
    return [np.nan if value is None else value for value in values]


def _compared(now: dict[str, float | None], before: dict[str, float | None] | None) -> list[tuple[str, str, str, str]]:
    """Name, now, before, and how much more that is."""
    rows = []
    for name, value in now.items():
        old = before.get(name) if before else None
        change = f"{100 * (value / old - 1):+.0f} %" if value is not None and old else ""
        rows.append((name, _told(value), _told(old), change))
    return rows


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _added(run: Run, kind: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for second in run["seconds"]:
        total.update(second[kind])
    return dict(total.most_common())


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
