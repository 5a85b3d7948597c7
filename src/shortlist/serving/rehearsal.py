"""Tries a bundle out before it is published: in a process of its own it is loaded, and asked its golden requests.

A bundle that crashes, hangs or takes too much memory does so there. It runs on the CPU whatever the repository is for:
that plans agree with their graphs is for `shortlist export` to see to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from shortlist.errors import BundleError, ShortlistError

NICENESS = 19  # the server comes first
PATIENCE = 900.0  # seconds


def rehearse(bundle_path: Path) -> str:
    """Try the bundle; returns what came of it, in words. Raises BundleError with the reason when it fails."""
    command = [sys.executable, "-m", __name__, str(bundle_path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"{bundle_path}: does not answer its golden requests within {PATIENCE:g} s") from None
    if done.returncode == 0:
        return str(json.loads(done.stdout.splitlines()[-1]))
    if done.returncode == 1 and done.stdout.strip():
        raise BundleError(json.loads(done.stdout.splitlines()[-1]))
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    words = (done.stderr.strip().splitlines() or ["no word"])[-1]
    raise BundleError(f"{bundle_path}: the process that tried it out ended with {how}: {words}")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def main(bundle_path: Path) -> int:
    """In the child: the last line printed is the outcome, a JSON string; the exit code is 1 where it is a refusal."""
    os.nice(NICENESS)
    from shortlist.bundle import Bundle
    from shortlist.cascade import Cascade
    from shortlist.golden import check_golden

    try:
        cascade = Cascade.load(bundle_path)
        compared = check_golden(Bundle.open(bundle_path, verify=False), cascade)
    except ShortlistError as error:
        print(json.dumps(str(error)))
        return 1
    answered = f"all {compared} golden requests are answered as after training"
    older = "it has no golden requests, being older than they are; it answers requests of every kind"
    print(json.dumps(f"checksums are right, {answered if compared else older}"))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
