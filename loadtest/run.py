"""`make load`: a workload against a server, its own unless there is one, and the report of it beside the last one's.

python -m shortlist.loadtest.run --repository build/demo --workload ramp --duration 60
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shortlist.errors import ShortlistError
from shortlist.loadtest.report import write_report
from shortlist.loadtest.workloads import WORKLOADS
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE
from shortlist.serving.versions import check_repository, loadable

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@dataclass(frozen=True, slots=True)
class Target:
    """A running server; `pid` is 0 where it is none of ours."""

    grpc: str
    metrics: str
    pid: int = 0


def load(
    repository: Path,
    out: Path,
    workload: str = "steady",
    duration: float = 60.0,
    users: int = 32,
    deadline_ms: float = 0.0,
    target: Target | None = None,
    web: int | None = None,
) -> Path:
    """Run `workload` and return its report, an HTML file in `out`; the last run of that workload is drawn beside it.

    Users and items are those of `repository`'s newest version, which is served here unless there is a `target`. `web`
    is a port for Locust's page, on loopback; the test then starts and ends there. Raises ServerError when there is
    nothing to serve, or Locust fails.
    """
    check_repository(repository, [CASCADE.name])
    newest = max(loadable(repository / CASCADE.name), key=int)
    bundle = repository / CASCADE.name / newest / "bundle"
    out.mkdir(parents=True, exist_ok=True)
    kept, fresh = out / f"{workload}.json", out / f"{workload}.new.json"
    fresh.unlink(missing_ok=True)
    with _served(repository) if target is None else contextlib.nullcontext(target) as server:
        command = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--target", server.grpc, "--bundle", bundle]
        command += ["--metrics", server.metrics, "--server-pid", server.pid, "--record", fresh, "--most", users]
        command += ["--workload", workload, "--duration", duration, "--deadline", deadline_ms]
        page = ["--web-host", "127.0.0.1", "--web-port", web]
        command += page if web else ["--headless", "--only-summary", "--exit-code-on-error", 0]
        with contextlib.suppress(KeyboardInterrupt):
            subprocess.run([str(part) for part in command], check=False)
    if not fresh.is_file():
        raise ShortlistError(f"no load test was finished, {fresh} is missing; Locust's lines above say why")
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
    report = write_report(json.loads(fresh.read_text(encoding="utf-8")), before, out / f"{workload}.html")
    fresh.replace(kept)
    return report


@contextlib.contextmanager
def _served(repository: Path) -> Iterator[Target]:
    with Supervisor(repository, free_address()) as supervisor:
        yield Target(supervisor.address.grpc, supervisor.address.metrics, supervisor.server.pid)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("build/demo"), help="made by `shortlist export`")
    parser.add_argument("--out", type=Path, default=Path("build/load"))
    parser.add_argument("--workload", choices=list(WORKLOADS), default="steady")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds")
    parser.add_argument("--users", type=int, default=32, help="at the height of the load")
    parser.add_argument("--deadline", type=float, default=0.0, help="milliseconds each answer may take; 0: any")
    parser.add_argument("--url", default="", help="host:port of a server that runs already")
    parser.add_argument("--metrics", default="http://127.0.0.1:8002/metrics", help="URL of that server's metrics")
    parser.add_argument("--web", type=int, nargs="?", const=8089, help="port of Locust's page, on loopback")
    given = parser.parse_args()
    target = Target(given.url, given.metrics) if given.url else None
    try:
        report = load(
            *(given.repository, given.out, given.workload, given.duration, given.users, given.deadline),
            target=target,
            web=given.web,
        )
    except ShortlistError as error:
        sys.exit(f"error: {error}")
    print(f"report: {report}")


if __name__ == "__main__":
    main()
