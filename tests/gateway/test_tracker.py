"""tracker.js in a real Chromium, on a page of another host, with a key that may only send events."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route

from shortlist.events.schema import Event
from tests.gateway.conftest import client_of
from tests.gateway.events import logged

pytestmark = pytest.mark.browser

SHOP = """<!doctype html><title>shop</title><script src="{gateway}/tracker.js" {data} defer></script>
<style>div {{ height: 200px }} #gap {{ height: 3000px }}</style>
<div data-item="top">top <b>buy</b></div><div id="gap"></div><div data-item="bottom">bottom</div>"""


@dataclass
class Shop:
    """A page of another host, and the log of the gateway that its tracker tells."""

    url: str
    log: Path
    gateway: httpx.Client
    data: str = ""

    def events(self, page: Page, enough: Callable[[list[Event]], bool]) -> list[Event]:
        """The events of the log, once there are enough of them; the page goes on meanwhile."""
        end = time.monotonic() + 60
        while not enough(found := logged(self.log)):
            assert time.monotonic() < end, f"within a minute only {[(e.type, e.item_id) for e in found]}"
            page.wait_for_timeout(50)
        return found

    def sees(self, page: Page, item: str) -> None:
        """Wait until a view of the item has been told, without waiting for the tracker's timer."""
        end = time.monotonic() + 60
        while ("view", item) not in types(logged(self.log)):
            assert time.monotonic() < end, f"no view of {item} within a minute"
            page.evaluate("shortlist.flush()")
            page.wait_for_timeout(20)


@pytest.fixture
def shop(tmp_path: Path, keys: dict[str, str], folder: Path) -> Iterator[Shop]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gateway = str(site.gateway.base_url).rstrip("/")
            body = SHOP.format(gateway=gateway, data=site.data).encode() if self.path == "/" else b"left"
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    log = tmp_path / "events"
    with client_of(events=str(log), keys=folder / "keys.jsonl", origins=(url,)) as gateway:
        site = Shop(url, log, gateway, f'data-user="quinn" data-key="{keys["track"]}"')
        yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 800, "height": 600})
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    return opened


def types(events: list[Event]) -> set[tuple[str, str]]:
    return {(event.type, event.item_id) for event in events}


def ids(events: list[Event]) -> set[str]:
    """Of clicks; a page that is left may send some twice."""
    return {event.event_id for event in events if event.type == "click"}


def test_views_dwell_depth_and_clicks_are_told(page: Page, shop: Shop) -> None:
    page.goto(shop.url)
    shop.sees(page, "top")
    page.wait_for_timeout(1100)  # a dwell is a second at least
    page.click("text=buy")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wanted = {("view", "top"), ("click", "top"), ("dwell", "top"), ("view", "bottom")}
    events = {(e.type, e.item_id): e for e in shop.events(page, lambda found: wanted <= types(found))}
    assert events["view", "top"].value == pytest.approx(600 / 3400, abs=0.05)
    assert events["view", "bottom"].value == pytest.approx(1.0, abs=0.05)
    assert 1.0 <= (events["dwell", "top"].value or 0) < 60
    assert {e.user_id for e in events.values()} == {"quinn"}
    assert events["click", "top"].context is not None
    assert events["click", "top"].context["device"] == "desktop"


def test_an_item_is_viewed_once_a_page(page: Page, shop: Shop) -> None:
    page.goto(shop.url)
    for place in ("document.body.scrollHeight", "0", "document.body.scrollHeight", "0"):
        page.evaluate(f"scrollTo(0, {place})")
        shop.sees(page, "top" if place == "0" else "bottom")
        page.wait_for_timeout(100)
    page.click("text=buy")
    found = shop.events(page, lambda found: ("click", "top") in types(found))
    assert Counter(e.item_id for e in found if e.type == "view") == {"top": 1, "bottom": 1}


def test_items_that_come_later_are_watched_too(page: Page, shop: Shop) -> None:
    page.goto(shop.url)
    page.evaluate("document.body.insertAdjacentHTML('afterbegin', '<div data-item=late>late</div>')")
    assert ("view", "late") in types(shop.events(page, lambda found: ("view", "late") in types(found)))


def test_what_waits_is_sent_as_the_page_is_left(page: Page, shop: Shop) -> None:
    shop.data += ' data-page-item="article"'
    page.goto(shop.url)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(1100)
    page.goto(f"{shop.url}/elsewhere")
    wanted = {("view", "article"), ("dwell", "article")}
    events = {(e.type, e.item_id): e for e in shop.events(page, lambda found: wanted <= types(found))}
    assert events["view", "article"].value == pytest.approx(1.0, abs=0.05)


def test_events_that_were_not_taken_are_sent_again_and_none_is_lost(page: Page, shop: Shop) -> None:
    refused = []

    def fail_twice(route: Route) -> None:
        if route.request.method == "POST" and len(refused) < 2:
            refused.append(route)
            route.abort() if len(refused) == 1 else route.fulfill(status=503, headers={"retry-after": "1"})
        else:
            route.continue_()

    page.route("**/v1/events", fail_twice)
    page.goto(shop.url)
    page.evaluate("for (let i = 0; i < 45; i++) shortlist.track('like', `item-${i}`)")
    found = shop.events(page, lambda found: len({e.item_id for e in found if e.type == "like"}) == 45)
    assert len(refused) == 2
    assert len({e.event_id for e in found if e.type == "like"}) == 45


def test_what_waits_is_bounded_and_the_newest_stay(page: Page, shop: Shop) -> None:
    page.route("**/v1/events", lambda route: route.abort())
    page.goto(shop.url)
    page.evaluate("for (let i = 0; i < 2000; i++) shortlist.track('like', `item-${i}`)")
    page.unroute("**/v1/events")
    found = shop.events(page, lambda found: ("like", "item-1999") in types(found))
    assert len({e.item_id for e in found if e.type == "like"}) <= 520  # and a batch that was under way


def test_events_that_are_wrong_are_not_sent_for_ever(page: Page, shop: Shop) -> None:
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status) if "events" in response.url else None)
    page.goto(shop.url)
    page.evaluate("shortlist.track('rating', 'item-1', 99); shortlist.track('click', 'item-2')")
    found = shop.events(page, lambda found: ("click", "item-2") in types(found))
    page.wait_for_timeout(500)
    assert ("rating", "item-1") not in types(found)
    assert answers.count(200) <= 2


def test_a_visitor_without_a_name_is_the_same_within_a_tab(page: Page, shop: Shop) -> None:
    shop.data = shop.data.replace('data-user="quinn"', "")
    for _ in range(2):
        page.goto(shop.url)
        page.click("text=buy")
    clicks = {e.event_id: e.user_id for e in shop.events(page, lambda found: len(ids(found)) == 2) if e.type == "click"}
    assert [user.startswith("anonymous-") for user in clicks.values()] == [True, True]
    assert len(set(clicks.values())) == 1


@pytest.mark.parametrize(
    "wish",
    [
        "Object.defineProperty(navigator, 'doNotTrack', { get: () => '1' })",
        "Object.defineProperty(navigator, 'globalPrivacyControl', { get: () => true })",
    ],
    ids=["do not track", "global privacy control"],
)
def test_who_wants_not_to_be_tracked_is_not(context: BrowserContext, page: Page, shop: Shop, wish: str) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.add_init_script(wish)
    page.goto(shop.url)
    page.click("text=buy")
    page.evaluate("shortlist.track('like', 'top'); shortlist.flush()")
    stored = page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length")
    page.wait_for_timeout(500)
    page.goto(f"{shop.url}/elsewhere")
    page.wait_for_timeout(300)
    assert [url for url in asked if "/v1/" in url] == []
    assert (stored, logged(shop.log)) == (0, [])
