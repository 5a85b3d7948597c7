"""Keys, roles, rate limits, foreign pages and hosts: who gets in, and who is told why not."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from shortlist.errors import ConfigError
from shortlist.gateway.audit import Audit
from shortlist.gateway.keys import Keys, make_key
from shortlist.gateway.limits import Buckets, network
from shortlist.gateway.metrics import AUDIT_LOST, Metrics
from shortlist.gateway.settings import Settings
from tests.gateway.conftest import Start, client_of
from tests.gateway.events import event

OPEN = {"/healthz"}
NEEDS = {
    ("POST", "/v1/recommend"): "read",
    ("GET", "/v1/profile/anna"): "read",
    ("POST", "/v1/events"): "track",
    ("GET", "/metrics"): "admin",
}


@pytest.fixture(scope="module")
def keyed(keys: dict[str, str], folder: Path) -> Iterator[httpx.Client]:
    """Of a gateway with keys, and a store where nobody answers."""
    options = {"events": str(folder / "events"), "profiles": "valkey://127.0.0.1:9/0"}
    with client_of(**options, keys=folder / "keys.jsonl", audit=folder / "audit.jsonl") as connected:
        yield connected


def audited(folder: Path, ask: Callable[[], object], lines: int = 1) -> list[str]:
    """The lines that come to the audit log when something is asked for: after the answer, so wait for them.

    Not those of refusals that were counted until then, which come when a minute is over.
    """

    def written() -> list[str]:
        return [line for line in (folder / "audit.jsonl").read_text().splitlines() if '"more":' not in line]

    before, end = len(written()), time.monotonic() + 60
    ask()
    while len(found := written()[before:]) < lines and time.monotonic() < end:
        time.sleep(0.005)
    return found


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_every_route_of_the_api_wants_a_key(keyed: httpx.Client) -> None:
    paths = keyed.get("/openapi.json").json()["paths"]
    routes = [
        (m.upper(), p.replace("{user}", "anna")) for p, methods in paths.items() if p not in OPEN for m in methods
    ]
    assert {route: keyed.request(*route, json=event()).status_code for route in routes} == dict.fromkeys(NEEDS, 401)


@pytest.mark.parametrize("role", ["read", "track", "admin"])
@pytest.mark.parametrize(("route", "needed"), NEEDS.items())
def test_a_role_opens_its_own_routes_and_admin_opens_all(
    keyed: httpx.Client, keys: dict[str, str], route: tuple[str, str], needed: str, role: str
) -> None:
    status = keyed.request(*route, json=event(), headers=bearer(keys[role])).status_code
    assert (status == 403) == (role not in (needed, "admin"))


def test_a_key_in_the_body_of_events_counts(keyed: httpx.Client, keys: dict[str, str]) -> None:
    body = json.dumps({"events": [event()], "key": keys["track"]})
    assert keyed.post("/v1/events", content=body, headers={"content-type": "text/plain"}).status_code == 200


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer sl-read-guess", "Basic eDp5", "Bearer \xff"])
def test_what_is_no_key_is_refused(keyed: httpx.Client, shown: str) -> None:
    answer = keyed.post("/v1/recommend", json={}, headers={b"authorization": shown.encode("latin-1")})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_the_file_of_keys_holds_no_key(keys: dict[str, str], folder: Path) -> None:
    text = (folder / "keys.jsonl").read_text()
    assert not any(key in text for key in keys.values())


def test_the_file_of_keys_is_its_owners_alone(keys: dict[str, str], folder: Path) -> None:
    assert (folder / "keys.jsonl").stat().st_mode & 0o077 == 0


def test_a_key_taken_out_of_the_file_is_shut_out_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.gateway.keys._LOOK_EVERY", 0.0)
    path = tmp_path / "keys"
    made = [make_key("read", path), make_key("track", path)]
    known = Keys(path)
    before = [known.whose(key) is not None for key in made]
    path.write_text(path.read_text().splitlines(True)[1])
    assert (before, [known.whose(key) is not None for key in made]) == ([True, True], [False, True])


def test_a_file_of_keys_that_vanishes_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.gateway.keys._LOOK_EVERY", 0.0)
    key = make_key("admin", tmp_path / "keys")
    known = Keys(tmp_path / "keys")
    (tmp_path / "keys").unlink()
    assert known.whose(key) is None


@pytest.mark.parametrize(
    "line", ["key", "[]", "{}", '{"name": "a", "role": "king", "sha256": "%s"}' % ("0" * 64), '"x"', "3"]
)
def test_a_line_that_is_no_key_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        Keys(tmp_path / "keys")


def test_a_key_is_added_to_a_file_whose_last_line_has_no_end(tmp_path: Path) -> None:
    made = [make_key("read", tmp_path / "keys")]
    (tmp_path / "keys").write_text((tmp_path / "keys").read_text().rstrip("\n"))
    made += [make_key("track", tmp_path / "keys")]
    keys = Keys(tmp_path / "keys")
    assert [getattr(keys.whose(key), "role", None) for key in made] == ["read", "track"]


def test_two_keys_do_not_share_a_name(tmp_path: Path) -> None:
    make_key("read", tmp_path / "keys", "shop")
    with pytest.raises(ConfigError, match="another"):
        make_key("track", tmp_path / "keys", "shop")


def test_a_role_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="read, track, admin"):
        make_key("root", tmp_path / "keys")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_strangers_are_let_in_with_keys_alone(host: str) -> None:
    with pytest.raises(ConfigError, match="--keys"):
        Settings(host=host).check()


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "*", "null", "https://a b"])
def test_an_origin_is_scheme_and_host(origin: str) -> None:
    with pytest.raises(ConfigError, match="--origin"):
        Settings(origins=(origin,)).check()


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(rate=10, burst=3)
    waits = [buckets.take(("key", "a"), now) for now in (0, 0, 0, 0, 0.05, 0.11, 0.11)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.05, 0, 0.09])


def test_callers_have_buckets_of_their_own() -> None:
    buckets = Buckets(rate=1, burst=1)
    assert [buckets.take((key, address), 0) for key, address in (("k", "a"), ("k", "b"), ("l", "a"))] == [0, 0, 0]


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.gateway.limits.MOST", 100)
    buckets = Buckets(rate=1, burst=1)
    for number in range(1000):
        buckets.take(("key", str(number)), 0)
    assert len(buckets) == 100


def test_an_ipv6_household_is_one_caller() -> None:
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2:ffff::9") != network("2001:db8:1:3::4")


def test_an_ipv4_address_is_the_same_however_it_is_written() -> None:
    assert network("::ffff:10.0.0.7") == network("10.0.0.7")


def test_too_many_requests_are_told_when_to_come_back(start: Start) -> None:
    client = start(rate=0.01, burst=2)
    answers = [client.post("/v1/recommend", json={}) for _ in range(3)]
    assert [a.status_code for a in answers] == [503, 503, 429]
    assert int(answers[2].headers["retry-after"]) in range(20, 101)  # 100 s less what the requests took


def test_guessing_keys_is_limited_and_does_not_shut_out_who_has_one(
    start: Start, keys: dict[str, str], folder: Path
) -> None:
    client = start(keys=folder / "keys.jsonl", rate=0.01, burst=5)
    guesses = [client.get("/metrics", headers=bearer(f"guess-{n}")).status_code for n in range(7)]
    assert guesses == [401] * 5 + [429] * 2
    assert client.get("/metrics", headers=bearer(keys["admin"])).status_code == 200


def test_a_foreign_page_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/events", json=event(), headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


def test_the_own_page_is_let_in(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    assert client.post("/v1/events", json=event(), headers={"origin": origin}).status_code == 200


def test_a_page_that_was_named_may_call_and_read_the_answer(start: Start, tmp_path: Path) -> None:
    client = start(events=str(tmp_path / "events"), origins=("https://shop.example",))
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    assert client.options("/v1/events", headers={"origin": "https://shop.example", **asked}).status_code == 200
    answer = client.post("/v1/events", json=event(), headers={"origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
def test_without_keys_a_name_rebound_to_this_machine_is_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:99", "[::1]:80"])
def test_without_keys_names_of_this_machine_are_let_in(client: httpx.Client, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_the_audit_log_says_who_asked_for_what(keyed: httpx.Client, keys: dict[str, str], folder: Path) -> None:
    [line] = audited(folder, lambda: keyed.get("/v1/profile/anna", headers=bearer(keys["read"])))
    expected = {"caller": "read-1", "role": "read", "address": "127.0.0.1", "method": "GET", "status": 503}
    assert {name: value for name, value in json.loads(line).items() if name in expected} == expected


def test_the_audit_log_holds_no_keys_no_people_and_no_events(
    keyed: httpx.Client, keys: dict[str, str], folder: Path
) -> None:
    def ask() -> None:
        keyed.post("/v1/events", json={"events": [event(item_id="secret-item")], "key": keys["track"]})
        keyed.get("/v1/profile/anna", headers=bearer(keys["read"]))
        keyed.post("/v1/recommend", json={"user_id": "anna"}, headers=bearer(keys["read"]))

    text = "".join(audited(folder, ask, lines=3))
    assert [word for word in ("anna", "secret-item", "sl-") if word in text] == []


@pytest.mark.parametrize(("options", "status"), [({}, 401), ({"rate": 0.001, "burst": 1}, 429)])
def test_refusals_are_in_the_audit_log_the_first_and_how_many_more(
    keys: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, status: int
) -> None:
    monkeypatch.setattr("shortlist.gateway.audit.TOGETHER", 1e9)
    with client_of(keys=folder / "keys.jsonl", audit=tmp_path / "audit", **options) as client:
        for _ in range(5):
            client.get("/metrics", headers=bearer("guess"))
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    told = [(line.get("route"), line.get("more")) for line in lines if line["status"] == status]
    assert told == [("/metrics", None), (None, 4 if status == 401 else 3)]


def test_refusals_are_counted_by_caller_and_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr("shortlist.gateway.audit.time", clock)
    audit = Audit(tmp_path / "audit", Metrics())
    for status, address in [(401, "a"), (401, "a"), (4401, "a"), (429, "a"), (401, "b"), (401, "a"), (403, "a")] * 2:
        audit.write(status=status, address=address)
    clock.monotonic = lambda: 60.0
    audit.write(status=401, address="a")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    first = [(401, "a", None), (4401, "a", None), (429, "a", None), (401, "b", None), (403, "a", None)]
    counted = [(401, "a", 5), (4401, "a", 1), (429, "a", 1), (401, "b", 1)]
    assert [(line["status"], line["address"], line.get("more")) for line in lines] == [
        *first,
        (403, "a", None),
        *counted,
        (401, "a", None),
    ]


def test_refusals_of_many_callers_are_one_line_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist.gateway.audit.MOST_CALLERS", 3)
    audit = Audit(tmp_path / "audit", Metrics())
    for number in range(100):
        audit.write(status=401, address=f"10.0.0.{number}")
    audit.close()
    assert len((tmp_path / "audit").read_text().splitlines()) == 5


def test_the_audit_log_is_its_owners_alone(keyed: httpx.Client, folder: Path) -> None:
    assert (folder / "audit.jsonl").stat().st_mode & 0o077 == 0


def test_a_line_torn_by_a_full_disk_is_counted_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    audit = Audit(tmp_path / "audit", metrics)
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr("shortlist.gateway.audit.os.write", lambda file, data: whole(file, data[:20]))
        audit.write(status=1, address="")
    audit.write(status=2, address="")
    audit.write(status=3, address="")
    audit.close()
    _, *lines = (tmp_path / "audit").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == [2, 3]
    assert metrics[AUDIT_LOST] == 1


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-300, float("nan"), float("inf")])
def test_a_rate_is_a_number_that_limits(rate: float) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        Settings(rate=rate).check()


def test_an_audit_log_on_a_full_disk_costs_no_request(start: Start) -> None:
    client = start(audit=Path("/dev/full"))
    assert "shortlist_gateway_refused" in client.get("/metrics").text
    assert "shortlist_gateway_audit_lost_total 1" in client.get("/metrics").text
