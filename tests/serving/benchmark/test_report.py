import io

import pytest
from rich.console import Console

from shortlist.serving.benchmark.report import summarise, tables
from shortlist.serving.benchmark.run import CLIENTS


def rows(cpu_ms: float, per_second: float, p99_ms: float = 30.0) -> list[dict[str, float]]:
    row = {"cpu_ms": cpu_ms, "per_second": per_second, "p50_ms": 10.0, "p95_ms": 20.0, "p99_ms": p99_ms}
    return [row, row | {"cpu_ms": 100 * cpu_ms, "per_second": per_second / 100}, row]  # one round is disturbed


@pytest.fixture
def found() -> dict[str, object]:
    cases = {f"cascade@{clients}": rows(1.0, 1000.0) for clients in CLIENTS}
    cases |= {"limit@1": rows(0.9, 2000.0), "limit@16": rows(0.5, 2500.0), "ensemble@16": rows(3.0, 400.0)}
    cases |= {"fastapi@16": rows(1.2, 900.0), "fastapi_batched@16": rows(0.9, 1250.0), "litserve@16": rows(2.0, 500.0)}
    cases |= {"small@16": rows(0.8, 1100.0), "large@16": rows(1.2, 800.0), "open": rows(1.0, 700.0, p99_ms=60.0)}
    recall = [{"recall@500": 0.97, "items": 1000}, {"recall@500": 0.96, "items": 100}]
    return {"cases": cases, "recall": recall, "messages": 64, "compared": 8}


def test_the_better_of_the_fastapi_variants_is_the_peer(found: dict[str, object]) -> None:
    summary = summarise(found, rounds=3)
    assert summary["fastapi_peer"] == "fastapi_batched"
    assert summary["throughput_ratio"]["fastapi"] == pytest.approx(0.8)


def test_ratios_are_taken_within_a_round(found: dict[str, object]) -> None:
    assert summarise(found, rounds=3)["cpu_ratio_to_limit"] == pytest.approx(2.0)


def test_targets_are_met_or_missed_by_their_own_direction(found: dict[str, object]) -> None:
    targets = summarise(found, rounds=3)["targets"]
    met = {name for name, target in targets.items() if target["met"]}
    assert met == {"throughput_to_ensemble", "p99_over_p50", "growth", "recall@500"}


def test_what_was_not_measured_is_no_target(found: dict[str, object]) -> None:
    del found["cases"]["large@16"]  # type: ignore[attr-defined]
    assert "growth" not in summarise(found, rounds=3)["targets"]


def test_the_report_has_a_line_for_each_target_and_case(found: dict[str, object]) -> None:
    console = Console(record=True, file=io.StringIO(), width=140)
    for shown in tables(summarise(found, rounds=3)):
        console.print(shown)
    text = console.export_text()
    assert "throughput_to_fastapi" in text
    assert "fastapi_batched@16" in text
