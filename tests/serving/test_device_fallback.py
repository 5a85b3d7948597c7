"""A GPU's repository on a machine without one: `auto` serves on the CPU, and the metrics say so."""

import urllib.request
from pathlib import Path

from shortlist.cascade import Cascade
from shortlist.serving.client import Client
from shortlist.serving.plans import parse_precisions
from shortlist.serving.process import free_address
from shortlist.serving.repository import GpuOptions, build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.where import settle
from shortlist.types import Request, Slate


def test_auto_answers_from_the_cpu_and_the_metrics_say_so(bundle: Path, tmp_path: Path) -> None:
    options = GpuOptions(parse_precisions(["filter=fp16"]), None)
    build_repository(bundle, tmp_path / "out", "gpu", gpu=options)
    where = settle(tmp_path / "out", "auto", print)
    with Supervisor(tmp_path / "out", free_address(), instances=1, where=where) as supervisor:
        with Client(supervisor.address.grpc) as client:
            answer = client.recommend("user-0")
        with urllib.request.urlopen(supervisor.address.metrics, timeout=60) as page:
            text = page.read().decode()
    slate = Cascade.load(bundle).recommend([Request(b"user-0")])[0]
    assert isinstance(slate, Slate)
    assert answer.ids == [item.decode() for item in slate.item_ids]
    (line,) = [line for line in text.splitlines() if line.startswith("shortlist_device{")]
    assert ('device="cpu"' in line, 'wanted="auto"' in line, line.split()[-1]) == (True, True, "1")
