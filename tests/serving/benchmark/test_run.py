"""A whole run on a small bundle: every server starts, answers the same slates, and is measured."""

from pathlib import Path

import pytest

from shortlist.serving.benchmark.report import summarise
from shortlist.serving.benchmark.run import run


@pytest.mark.slow
def test_every_case_is_measured(bundle: Path) -> None:
    summary = summarise(run(bundle, rounds=1, seconds=0.3, growth=(bundle, bundle)), rounds=1)
    assert summary["throughput_ratio"].keys() == {"fastapi", "ensemble", "litserve"}
    assert summary["cpu_ms_per_request"]["cascade"].keys() == {"1", "4", "16", "64"}
    assert summary["growth_10M_vs_100k"] > 0
    assert summary["retrieval"]["recall@500"] == 1
