"""A short load test of a real server, and its report."""

import json
import re
from pathlib import Path

import pytest

from shortlist.errors import ServerError, ShortlistError
from shortlist.loadtest.record import Record
from shortlist.loadtest.report import totals, write_report
from shortlist.loadtest.run import load
from shortlist.serving.repository import build_repository
from tests.factories import make_bundle

SECTIONS = ("Throughput and latency", "Second by second", "Share of the stages", "Errors", "Server CPU and memory")
SECTIONS += ("Triton's queue", "Bad requests")


def a_run(per_second: float) -> dict:
    server = {"cores": 1.0, "memory_mb": 400.0, "stages": {"rank": 0.3, "filter": 0.1}, "queue_ms": 0.5}
    second = {"users": 4, "per_second": per_second, "late_per_second": 0.0, "bad_per_second": 1.0, "server": server}
    second |= {"p50_ms": 3.0, "p95_ms": 6.0, "p99_ms": 9.0, "bad": {"INVALID_ARGUMENT": 1}, "errors": {}}
    return {"settings": {"workload": "steady", "users": 4, "deadline_ms": 0}, "seconds": [second] * 3}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs, one after the other, of seven seconds in all."""
    folder = tmp_path_factory.mktemp("load")
    build_repository(make_bundle(folder / "bundle"), folder / "repository", instances=1)
    for seconds in (3.0, 4.0):
        report = load(folder / "repository", folder / "out", duration=seconds, users=4)
    return report


def test_a_report_has_all_its_sections(ran: Path) -> None:
    found = re.findall("<h2>(.*?)</h2>", ran.read_text().replace("&#39;", "'"))
    assert sorted(found) == sorted(SECTIONS)
    assert ran.read_text().count("<svg") == 5


def test_the_server_was_asked_and_looked_at(ran: Path) -> None:
    run = json.loads(ran.with_suffix(".json").read_text())
    found = totals(run)
    assert found["failed"] == 0
    assert all(found[name] for name in ("answers a second", "p50, ms", "server CPU, cores", "server memory, MB"))
    assert {"retrieve", "filter", "rank"} <= {
        stage for second in run["seconds"] for stage in second["server"]["stages"]
    }


def test_the_second_run_is_compared_with_the_first(ran: Path) -> None:
    assert "The run before is drawn in grey" in ran.read_text()


def test_a_report_says_what_changed(tmp_path: Path) -> None:
    text = write_report(a_run(150.0), a_run(100.0), tmp_path / "report.html").read_text()
    assert "<td>answers a second</td><td>150.0</td><td>100.0</td><td>+50 %</td>" in text


def test_a_first_report_compares_with_nothing(tmp_path: Path) -> None:
    assert "There is no earlier run" in write_report(a_run(100.0), None, tmp_path / "report.html").read_text()


def test_a_run_of_no_seconds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShortlistError, match="longer DURATION"):
        write_report({"settings": {}, "seconds": []}, None, tmp_path / "report.html")


def test_without_a_repository_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="shortlist export"):
        load(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_requests_count_apart() -> None:
    record = Record()
    record.answered("bad", "INVALID_ARGUMENT", 1.0, expected=True)
    record.answered("bad", "OK", 1.0, expected=False)
    record.answered("zipf user", "OK", 5.0, expected=True)
    record.answered("zipf user", "CANCELLED", 5.0, expected=True)
    record.close_second(2, {})
    (second,) = record.seconds
    assert second["bad"] == {"INVALID_ARGUMENT": 1, "OK": 1}
    assert second["errors"] == {"bad: OK": 1}
    assert second["p50_ms"] == 5.0
    assert second["late_per_second"] == pytest.approx(second["per_second"])
