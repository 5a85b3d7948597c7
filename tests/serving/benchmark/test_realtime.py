"""A short run of the whole: every event arrives once, and what is reported is there."""

from pathlib import Path

import pytest

from shortlist.serving.benchmark.realtime import Load, run


@pytest.mark.slow
def test_events_reach_answers_once(bundle: Path) -> None:
    report = run(bundle, Load(seconds=5, events=100, requests=20, ingest=20_000))
    assert (report["lost"], report["duplicated"], report["profiles_equal"]) == (0, 0, True)
    assert 0 < report["freshness_ms"]["p50"] <= report["freshness_ms"]["p99"]
    assert report["ingest_events_per_s"] > 0
    assert report["followed"] > 8
    assert report["requests_failed"] == 0
