"""Serving and exporting need no PyTorch, which is most of what an installation weighs."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path

sys.modules["torch"] = None  # as if it were not installed
import shortlist
import shortlist.cli.main
import shortlist.devices.gpu
import shortlist.serving.builds
import shortlist.serving.supervisor
import shortlist.serving.where
from shortlist.cascade import Cascade
from shortlist.serving.plans import parse_precisions
from shortlist.serving.repository import GpuOptions, build_repository

bundle, out = map(Path, sys.argv[1:])
build_repository(bundle, out / "cpu", stages=True)
version = build_repository(bundle, out / "gpu", "gpu", gpu=GpuOptions(parse_precisions(["filter=fp16"]), None))
Cascade.load(version / "bundle")
"""


def test_serving_and_exporting_run_where_torch_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
