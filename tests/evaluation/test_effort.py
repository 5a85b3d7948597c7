"""The settings answer as the cascade would, and the knee is the cheapest one that loses next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.effort import Measured, Setting, effort_curve, front, knee, plot, slates, table
from shortlist.types import Request, Slate

CHEAP, MIDDLE, DEAR = (Setting(1.0, n, 25) for n in (60, 125, 250))


def _measured(*pairs: tuple[float, float]) -> dict[Setting, Measured]:
    """NDCG and CPU-ms of the three settings."""
    return {
        s: Measured(np.full(3, quality), cost) for s, (quality, cost) in zip((CHEAP, MIDDLE, DEAR), pairs, strict=True)
    }


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (((0.1, 1), (0.2, 2), (0.3, 3)), [CHEAP, MIDDLE, DEAR]),
        (((0.1, 1), (0.3, 2), (0.2, 3)), [CHEAP, MIDDLE]),
        (((0.3, 3), (0.3, 2), (0.2, 1)), [DEAR, MIDDLE]),
    ],
    ids=["all", "dearer and worse", "equal and dearer"],
)
def test_the_front_holds_what_no_cheaper_setting_equals(
    pairs: tuple[tuple[float, float], ...], expected: list[Setting]
) -> None:
    assert front(_measured(*pairs)) == expected


def test_the_knee_is_the_cheapest_that_surely_loses_little() -> None:
    losses = {CHEAP: Interval(-0.0005, -0.002, 0.0), MIDDLE: Interval(-0.0005, -0.001, 0.0), DEAR: Interval(0, 0, 0)}
    assert knee(losses, _measured((0.1, 1), (0.1, 2), (0.1, 3))) == MIDDLE


def test_the_configured_setting_answers_as_the_cascade_does(planted_run: Path) -> None:
    cascade = Cascade.load(planted_run / "bundle")
    known = np.flatnonzero(np.diff(cascade.users.profiles.offsets))[:20]
    requests = [Request(user_id=cascade.users.profiles.ids.id(user), diversity=0.0) for user in known.tolist()]
    configured = Setting(1.0, cascade.config.candidates, cascade.config.rank_depth)
    rows = slates(cascade, cascade.users.read(requests), configured)
    answers = [a.item_ids for a in cascade.recommend(requests) if isinstance(a, Slate)]
    assert [tuple(cascade.catalog.ids.id(row) for row in slate) for slate in rows.tolist()] == answers


def test_the_report_is_whole(planted_run: Path, tmp_path: Path) -> None:
    report = json.loads(json.dumps(effort_curve(planted_run, requests=40)))
    assert sum(s["knee"] for s in report["settings"]) == 1
    assert [s["cpu_ms"] for s in report["settings"]] == sorted(s["cpu_ms"] for s in report["settings"])
    assert all(0 <= s["ndcg@10"] <= 1 and s["cpu_ms"] > 0 for s in report["settings"])
    assert table(report).row_count >= 1
    plot(report, tmp_path / "effort.png")
    assert (tmp_path / "effort.png").read_bytes()[:4] == b"\x89PNG"
