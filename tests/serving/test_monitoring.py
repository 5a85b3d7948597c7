"""docs/metrics.md, the dashboard and the rules against a live server, and a real Prometheus that scrapes it."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shortlist.errors import ShortlistError
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from tests.factories import make_bundle
from tests.prometheus import MONITORING, ROOT, program, rules, write_rules
from tests.serving.stand_in import answers, seconds_until

DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
PARTS = ("_bucket", "_sum", "_count")
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ((?:`\w+`(?:, )?)*) \|")


def documented() -> dict[str, tuple[str, set[str]]]:
    """Metric -> type and labels, as docs/metrics.md has them."""
    rows = map(ROW.match, (ROOT / "docs" / "metrics.md").read_text().splitlines())
    return {row[1]: (row[2], set(re.findall(r"\w+", row[3]))) for row in rows if row}


def exposed(page: str) -> dict[str, tuple[str, set[str]]]:
    """The same, as the endpoint has them: what comes in three parts is a histogram."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE))
    found: dict[str, tuple[str, set[str]]] = {}
    for name, kind in kinds.items():
        whole = name.removesuffix("_bucket")
        if any(name.endswith(part) and f"{name.removesuffix(part)}_bucket" in kinds for part in PARTS[1:]):
            continue
        labels = {
            label
            for line in re.findall(rf"^{name}\{{(.*)\}} ", page, re.MULTILINE)
            for label in re.findall(r"(\w+)=", line)
        }
        found[whole] = ("histogram", labels - {"le"}) if name.endswith("_bucket") else (kind, labels)
    return found


def scraped(served: Supervisor) -> str:
    """The page that Prometheus reads."""
    with urllib.request.urlopen(served.address.metrics, timeout=60) as page:
        return str(page.read().decode())


def ask_in_every_way(client: Client, times: int = 3) -> None:
    """Known people, also such whose slate is not kept, strangers, a bad request, a deadline that has passed."""
    for i in range(times):
        client.recommend(f"user-{i}")
        client.recommend(f"user-{i}", trace=True)
        client.recommend("nobody")
        with suppress(ShortlistError):
            client.recommend("user-0", k=0)
        with suppress(ShortlistError):
            client.recommend("user-0", deadline_ms=-1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server that keeps slates, so that there is something to see of them."""
    folder = tmp_path_factory.mktemp("watched")
    build_repository(make_bundle(folder / "bundle", cached_slates=100), folder / "repository")
    with Supervisor(folder / "repository", free_address(), instances=1) as supervisor:
        yield supervisor


def test_what_is_documented_is_what_is_exposed(watched: Supervisor) -> None:
    with Client(watched.address.grpc) as client:
        ask_in_every_way(client)
    listed, until = documented(), time.monotonic() + 20
    while {name: (found := exposed(scraped(watched))).get(name) for name in listed} != listed:
        if time.monotonic() > until:  # it is handed over once a second
            break
        time.sleep(0.2)
    assert {name: found.get(name) for name in listed} == listed
    assert {name for name in found if name.startswith("shortlist_")} <= set(listed)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


class Prometheus:
    """A real one, in a folder of its own, that scrapes `target` every second."""

    def __init__(self, folder: Path, target: str) -> None:
        write_rules(folder)
        config = (MONITORING / "prometheus.yaml").read_text().replace("127.0.0.1:8002", target).replace(": 15s", ": 1s")
        (folder / "prometheus.yaml").write_text(config)
        self.url = f"http://{free_address().grpc}"
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def get(self, path: str, **parameters: str) -> Any:
        """The data of one call of its API."""
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        """Labels and values now."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(watched: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has watched a server at work for some seconds."""
    target = watched.address.metrics.removeprefix("http://").removesuffix("/metrics")
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), target)
    try:
        seen, until = "count_over_time(shortlist_answers_by_effort_total[1m]) > 4", time.monotonic() + 60
        with Client(watched.address.grpc) as client:
            while True:
                ask_in_every_way(client, times=1)
                with suppress(OSError):
                    if running.query(seen):
                        break
                assert time.monotonic() < until, "Prometheus has not scraped the server within a minute"
                time.sleep(0.2)
        yield running
    finally:
        running.stop()


@pytest.mark.prometheus
@pytest.mark.parametrize("panel", QUERIES)
def test_every_panel_shows_numbers(prometheus: Prometheus, panel: str) -> None:
    query = QUERIES[panel].replace("$job", "shortlist").replace("$__rate_interval", "1m")
    values = [float(sample["value"][1]) for sample in prometheus.query(query)]
    assert any(value == value for value in values), query  # not NaN


@pytest.mark.prometheus
def test_the_dashboards_variable_finds_the_job(prometheus: Prometheus) -> None:
    assert prometheus.get("label/job/values", **{"match[]": "shortlist_version"}) == ["shortlist"]


@pytest.mark.prometheus
def test_prometheus_takes_every_rule_and_nothing_fires(prometheus: Prometheus) -> None:
    def taken_rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    seconds_until(lambda: "unknown" not in {rule["health"] for rule in taken_rules()})  # each is looked at in its turn
    taken = taken_rules()
    assert len(taken) == len(rules())
    assert {rule["health"] for rule in taken} == {"ok"}
    assert [rule["name"] for rule in taken if rule.get("state") == "firing"] == []


@pytest.mark.prometheus
def test_what_a_recording_rule_works_out_is_there(prometheus: Prometheus) -> None:
    seconds_until(lambda: any(float(s["value"][1]) > 0 for s in prometheus.query("shortlist:requests:rate5m")))


def test_a_repair_is_counted(watched: Supervisor) -> None:
    for stub in watched.server.stubs():
        stub.kill()
    with Client(watched.address.grpc, timeout=3) as client:
        seconds_until(lambda: watched.reloads > 0 and answers(client, 1), 150)
    seconds_until(lambda: f'shortlist_repairs_total{{kind="reload"}} {watched.reloads}' in scraped(watched))
