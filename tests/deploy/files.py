"""What the tests of this folder read: the Dockerfile's instructions, and the manifests as kustomize would list them."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.gpu"
ENTRYPOINT = ROOT / "deploy" / "docker" / "entrypoint.sh"
CANARY = ROOT / "deploy" / "docker" / "canary.py"
KUBERNETES = ROOT / "deploy" / "kubernetes"
MONITORING = KUBERNETES / "monitoring"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = [re.sub(r"\s+", " ", line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def arguments(instruction: str) -> str:
    """The arguments of the only `instruction`."""
    (found,) = [rest for name, rest in instructions() if name == instruction]
    return found


def command(instruction: str) -> list[str]:
    """The only `instruction`, which must be in exec form."""
    value = json.loads(arguments(instruction))
    assert isinstance(value, list)
    return value


def documents(folder: Path) -> list[dict[str, Any]]:
    """Every document of the files that the folder's kustomization lists."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((folder / name).read_text())]


def document(kind: str) -> dict[str, Any]:
    """The only manifest of its kind."""
    (found,) = [d for d in [*documents(KUBERNETES), *documents(MONITORING)] if d["kind"] == kind]
    return found
