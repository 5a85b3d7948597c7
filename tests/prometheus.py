"""What tests of monitoring share: Prometheus's programs, and the rules as it reads them without the operator."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = ROOT / "deploy" / "kubernetes" / "monitoring" / "rules.yaml"


def program(name: str) -> str:
    """Path of `promtool` or `prometheus`; the test fails where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not installed: `apt-get install prometheus`, or leave these tests out: -m 'not prometheus'"
        )
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule, recording and alerting."""
    return [rule for group in yaml.safe_load(RULES.read_text())["spec"]["groups"] for rule in group["rules"]]


def write_rules(folder: Path) -> Path:
    """The rules as a file of Prometheus's own form."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(RULES.read_text())["spec"], sort_keys=False))
    return path
