"""Alerts fire when they should and are silent otherwise: `promtool test rules` over two replicas for two hours."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import MONITORING, program, rules, write_rules

pytestmark = pytest.mark.prometheus

ALERTS = {rule["alert"] for rule in rules() if "alert" in rule}
MINUTES = 125
FLAT = f"1x{MINUTES}"
COUNTED = "shortlist_requests_total", "shortlist_answers_by_effort_total", "shortlist_errors_total"
FAST, SLOW = ("0.025", "0.05", "+Inf"), ("0.1", "0.25", "+Inf")

# name and labels -> values, a minute apart: 600 requests a minute, all full, one in a hundred refused, a third cached
HEALTHY: dict[str, str] = {
    "up": FLAT,
    'shortlist_version{bundle="before", version="0"}': f"0x{MINUTES}",
    'shortlist_version{bundle="a", version="1"}': FLAT,
    'shortlist_device{device="cpu", wanted="cpu"}': FLAT,
    'shortlist_requests_total{status="full"}': f"0+600x{MINUTES}",
    'shortlist_requests_total{status="no_rank"}': f"0+6x{MINUTES}",
    'shortlist_answers_by_effort_total{share="1"}': f"0+590x{MINUTES}",
    'shortlist_answers_by_effort_total{share="0.5"}': f"0+16x{MINUTES}",
    'shortlist_errors_total{field="k"}': f"0+6x{MINUTES}",
    'shortlist_errors_total{field="deadline_unix_us"}': f"0+1x{MINUTES}",
    'shortlist_errors_total{field="internal"}': f"0x{MINUTES}",
    'shortlist_request_duration_seconds_bucket{le="0.005"}': f"0+590x{MINUTES}",
    'shortlist_request_duration_seconds_bucket{le="0.025"}': f"0+606x{MINUTES}",
    'shortlist_request_duration_seconds_bucket{le="0.25"}': f"0+606x{MINUTES}",
    'shortlist_request_duration_seconds_bucket{le="+Inf"}': f"0+606x{MINUTES}",
    'nv_inference_queue_duration_us{model="cascade", version="1"}': f"0+660000x{MINUTES}",
    'nv_inference_request_success{model="cascade", version="1"}': f"0+660x{MINUTES}",
    'shortlist_repairs_total{kind="restart"}': f"0x{MINUTES}",
    'shortlist_repairs_total{kind="reload"}': f"0x60 1x{MINUTES}",
    "shortlist_slate_cache_asked_total": f"0+600x{MINUTES}",
    "shortlist_slate_cache_hits_total": f"0+200x{MINUTES}",
}
# alert -> what is otherwise on one replica, or on both
BAD: dict[str, dict[str, str]] = {
    "ShortlistReplicaDown": {"up": f"0x{MINUTES}"},
    "ShortlistNoAnswers": {'nv_inference_request_success{model="cascade", version="1"}': f"0+660x60 39600x{MINUTES}"},
    "ShortlistFailures": {'shortlist_errors_total{field="internal"}': f"0+1x{MINUTES}"},
    "ShortlistRefuses": {'shortlist_errors_total{field="k"}': f"0+100x{MINUTES}"},
    "ShortlistLate": {'shortlist_errors_total{field="deadline_unix_us"}': f"0+20x{MINUTES}"},
    "ShortlistDegraded": {'shortlist_requests_total{status="no_rank"}': f"0+80x{MINUTES}"},
    "ShortlistReducedEffort": {'shortlist_answers_by_effort_total{share="0.5"}': f"0+2000x{MINUTES}"},
    "ShortlistSlow": {
        'shortlist_request_duration_seconds_bucket{le="0.25"}': f"0+650x{MINUTES}",
        'shortlist_request_duration_seconds_bucket{le="+Inf"}': f"0+650x{MINUTES}",
    },
    "ShortlistQueues": {'nv_inference_queue_duration_us{model="cascade", version="1"}': f"0+16000000x{MINUTES}"},
    "ShortlistKeepsBreaking": {'shortlist_repairs_total{kind="reload"}': f"0x100 1x4 2x4 3x4 4x{MINUTES}"},
    "ShortlistVersionsDiffer": {
        'shortlist_version{bundle="a", version="1"}': f"_x{MINUTES}",
        'shortlist_version{bundle="b", version="2"}': FLAT,
    },
    "ShortlistWithoutGpu": {
        'shortlist_device{device="cpu", wanted="cpu"}': f"_x{MINUTES}",
        'shortlist_device{device="cpu", wanted="auto"}': FLAT,
    },
    "ShortlistCacheUseless": {"shortlist_slate_cache_hits_total": f"0+1x{MINUTES}"},
}
ON_BOTH = {"ShortlistCacheUseless"}


def series(replica: str, values: dict[str, str]) -> list[dict[str, str]]:
    """Input series of one replica; `_` alone is one that does not exist."""
    found = []
    for name, value in values.items():
        family, _, labels = name.rstrip("}").partition("{")
        own = f'job="shortlist", instance="{replica}"' + (f", {labels}" if labels else "")
        found.append({"series": f"{family}{{{own}}}", "values": value})
    return found


def scenario(values: list[dict[str, str]], firing: set[str], minute: int = 120) -> dict[str, Any]:
    """A test of promtool: with these values, exactly these alerts fire in that minute."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    question = {
        "expr": 'count by (alertname) (count by (alertname) (ALERTS{alertstate="firing"}))',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
    return {"interval": "1m", "input_series": values, "promql_expr_test": [question]}


def check(folder: Path, *scenarios: dict[str, Any]) -> str:
    """What promtool has against them."""
    tests = {"rule_files": [str(write_rules(folder))], "evaluation_interval": "1m", "tests": list(scenarios)}
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    asked = [program("promtool"), "test", "rules", str(folder / "tests.yaml")]
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_every_alert_is_tested() -> None:
    assert set(BAD) | {"ShortlistAbsent"} == ALERTS


def test_a_healthy_service_is_silent(tmp_path: Path) -> None:
    healthy = [*series("one", HEALTHY), *series("two", HEALTHY)]
    assert check(tmp_path, *(scenario(healthy, set(), minute) for minute in (10, 62, 120))) == ""


@pytest.mark.parametrize("alert", BAD)
def test_an_alert_fires_alone_when_it_should(alert: str, tmp_path: Path) -> None:
    bad = HEALTHY | BAD[alert]
    values = [*series("one", bad), *series("two", bad if alert in ON_BOTH else HEALTHY)]
    assert check(tmp_path, scenario(values, {alert})) == ""


def test_nothing_at_all_is_noticed(tmp_path: Path) -> None:
    other = [{"series": 'up{job="other"}', "values": FLAT}]
    assert check(tmp_path, scenario(other, {"ShortlistAbsent"})) == ""


def test_one_repair_wakes_nobody(tmp_path: Path) -> None:
    once = HEALTHY | {'shortlist_repairs_total{kind="restart"}': f"0x110 1x{MINUTES}"}
    assert check(tmp_path, scenario(series("one", once), set())) == ""


def test_a_rollout_of_some_minutes_wakes_nobody(tmp_path: Path) -> None:
    new = HEALTHY | {
        'shortlist_version{bundle="a", version="1"}': f"1x110 _x{MINUTES}",
        'shortlist_version{bundle="b", version="2"}': f"_x110 1x{MINUTES}",
    }
    assert check(tmp_path, scenario([*series("one", HEALTHY), *series("two", new)], set())) == ""


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    write_rules(tmp_path)
    (tmp_path / "prometheus.yaml").write_text((MONITORING / "prometheus.yaml").read_text())
    asked = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")]
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
