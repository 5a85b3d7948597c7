"""The gateway in front of a real Triton: an event changes the next slate, and a server that is away is stood in for."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from websockets.sync.client import connect

from shortlist.events.items import REMOVED, TRENDING
from shortlist.gateway.standby import popular
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.profiles.precomputed import SLATE, Made, pack
from shortlist.profiles.store import ProfileStore
from shortlist.serving.client import Client
from tests.gateway.conftest import Site, client_of
from tests.gateway.events import event

SLOW = 60.0  # seconds within which anything has to happen
COUNTED = {"offset": 0, "half_lives_s": [3600, 86400], "totals": [0, 8]}  # of a document of trends


@pytest.fixture
def connected(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=SLOW) as client:
        yield client


def slate(client: httpx.Client, **asked: Any) -> list[str]:
    return [item["id"] for item in client.post("/v1/recommend", json=asked).json()["items"]]


def test_rest_and_grpc_give_the_same_slate(connected: httpx.Client, site: Site) -> None:
    with Client(site.supervisor.address.grpc) as client:
        assert slate(connected, user_id="user-0", k=20) == client.recommend("user-0", k=20).ids


def test_every_field_reaches_the_server(connected: httpx.Client) -> None:
    asked = {"user_id": "user-0", "k": 5, "history": ["item-1"], "exclude": ["item-2"], "diversity": 0.5}
    asked |= {"context": {"device": "phone", "hour": 3}, "deadline_ms": 9000, "trace": True}
    answer = connected.post("/v1/recommend", json=asked).json()
    assert (len(answer["items"]), answer["status"], answer["version"]) == (5, "full", "1")
    assert [stage["stage"] for stage in answer["trace"]["stages"]][-1] == "diversify"


@pytest.mark.parametrize(("field", "value"), [("context", {"colour": "red"}), ("user_id", "u" * 300)])
def test_what_the_server_refuses_is_a_bad_request(connected: httpx.Client, field: str, value: Any) -> None:
    answer = connected.post("/v1/recommend", json={field: value})
    assert (answer.status_code, answer.json()["error"]["field"].partition(".")[0]) == (400, field)


def test_a_deadline_that_has_passed_is_a_timeout(connected: httpx.Client) -> None:
    assert connected.post("/v1/recommend", json={"deadline_ms": 0.001}).status_code == 504


@pytest.mark.parametrize("context", [{"hour": 10**400}, {"\0": 1}, {"hour": "\u2028"}, {"hour": -1e308}])
def test_odd_contexts_are_no_internal_errors(connected: httpx.Client, context: Any) -> None:
    assert connected.post("/v1/recommend", json={"context": context}).status_code in (200, 400)


def test_an_event_changes_the_next_slate(connected: httpx.Client) -> None:
    before = slate(connected, user_id="kim")
    connected.post("/v1/events", json=event(user_id="kim", item_id=before[-1], type="like"))
    end = time.monotonic() + SLOW
    while (after := slate(connected, user_id="kim")) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert after != before


def test_who_watches_sees_the_slate_move(site: Site, connected: httpx.Client) -> None:
    with connect(site.url.replace("http", "ws") + "/v1/live?user=lee&k=5", legacy=True) as socket:
        first = json.loads(socket.recv(timeout=SLOW))
        liked = first["slate"]["items"][-1]["id"]
        connected.post("/v1/events", json=event(user_id="lee", item_id=liked, type="like"))
        message = first
        while not message["profile"]:
            message = json.loads(socket.recv(timeout=SLOW))
    assert [i["id"] for i in message["slate"]["items"]] != [i["id"] for i in first["slate"]["items"]]
    assert message["slate"]["items"][0]["title"].startswith("<img")


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a gateway without Triton, whose store has a slate for mia, what is popular, and an item that was taken off."""
    scores = np.array([0.9, 0.8, 0.7], np.float32).tobytes()
    made = Made("bundle", 0, 0, 0, [b"item-1", b"item-2", b"item-3"], scores)
    document = COUNTED | {"at_ms": 0, "items": [["item-2", 0, 1], ["item-9", 0, 7]]}
    with EmbeddedStore(tmp_path_factory.mktemp("standby")) as store, client_of(profiles=store.url) as client:
        profiles = ProfileStore(store.url)
        profiles.command("SET", SLATE + b"mia", pack(made))
        profiles.command("HSET", TRENDING, "test", msgspec.json.encode(document), "broken", "{")
        profiles.command("SADD", REMOVED, "item-3")
        profiles.close()
        yield client


def test_while_the_server_is_away_the_own_slate_is_filled_up_with_popular_items(standby: httpx.Client) -> None:
    answer = standby.post("/v1/recommend", json={"user_id": "mia", "exclude": ["item-2"]}).json()
    assert (answer["status"], [item["id"] for item in answer["items"]]) == ("fallback", ["item-1", "item-9"])


def test_while_the_server_is_away_the_own_slate_keeps_its_order_whatever_is_popular(standby: httpx.Client) -> None:
    assert slate(standby, user_id="mia", k=3) == ["item-1", "item-2", "item-9"]


def test_while_the_server_is_away_strangers_get_what_is_popular(standby: httpx.Client) -> None:
    assert slate(standby, user_id="stranger", k=1) == ["item-9"]


def test_a_restricted_request_is_not_stood_in_for(standby: httpx.Client) -> None:
    answer = standby.post("/v1/recommend", json={"user_id": "mia", "eligible": {"locale": "de"}})
    assert answer.status_code == 503


def test_counts_of_all_partitions_add_up_at_the_same_moment() -> None:
    day = 86_400_000
    items = ([["a", 0, 4]], [["b", 0, 3]])
    documents = [COUNTED | {"at_ms": at * day, "items": i} for at, i in enumerate(items)]
    assert popular([msgspec.json.encode(d) for d in documents]) == [("b", 0.6), ("a", 0.4)]
