"""The live page and the page of the API in a real Chromium, in front of a real Triton."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from shortlist.profiles.embedded import EmbeddedStore
from tests.gateway.conftest import Site, client_of
from tests.gateway.events import logged

pytestmark = pytest.mark.browser


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of: errors, and what the page's own policy forbids."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()


def shown(page: Page) -> list[str]:
    """The item ids of the slate on the page."""
    ids: list[str] = page.eval_on_selector_all("#slate [data-item]", "rows => rows.map(row => row.dataset.item)")
    return ids


def test_the_page_shows_slate_stages_and_timings(page: Page, site: Site, complaints: list[str]) -> None:
    page.goto(f"{site.url}/?user=user-0&k=7")
    expect(page.locator("#slate li")).to_have_count(7)
    expect(page.locator("#funnel tbody tr td:first-child")).to_have_text(
        ["users", "retrieve", "filter", "rank", "diversify"]
    )
    expect(page.locator("#timings dd").first).to_contain_text("ms")
    assert complaints == []


def test_a_click_becomes_an_event_and_the_slate_moves_without_a_reload(
    page: Page, site: Site, complaints: list[str]
) -> None:
    page.goto(f"{site.url}/?user=nora&k=10")
    expect(page.locator("#slate li")).to_have_count(10)
    page.evaluate("window.loaded = 'once'")
    before = shown(page)
    clicked = before[4]
    page.locator("#slate button").nth(4).click()
    expect(page.locator("#profile-about")).to_have_text("1 event")
    expect(page.locator("#history li")).to_contain_text([clicked])
    assert shown(page) != before
    assert page.evaluate("window.loaded") == "once"
    assert [(e.type, e.item_id) for e in logged(site.log) if e.user_id == "nora"] == [("click", clicked)]
    expect(page.locator("#timings")).to_contain_text("click to slate")
    assert complaints == []


def test_titles_and_users_are_text_and_never_markup(page: Page, site: Site, complaints: list[str]) -> None:
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(f"{site.url}/?user=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&k=3")
    expect(page.locator("#slate .name").first).to_contain_text("<img src=x onerror=alert(1)> &")
    expect(page.locator("#state")).to_contain_text("<img src=x")
    assert page.locator("img").count() == 0
    assert complaints == []


def test_another_user_can_be_watched_by_the_form(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?user=user-0")
    expect(page.locator("#state")).to_have_text("Watching user-0.")
    page.fill("#user", "user-1")
    page.fill("#k", "3")
    page.click("text=Watch")
    expect(page.locator("#state")).to_have_text("Watching user-1.")
    expect(page.locator("#slate li")).to_have_count(3)


def test_a_page_that_lost_its_gateway_finds_it_again(page: Page, store: EmbeddedStore) -> None:
    with client_of(profiles=store.url) as client:
        port = client.base_url.port
        page.goto(f"{client.base_url}?user=otto")
        expect(page.locator("#profile-about")).to_have_text("nothing known yet")
        page.evaluate("document.body.dataset.messages = 0")
    expect(page.locator("#state")).to_contain_text("Trying again")
    with client_of(profiles=store.url, port=port):
        expect(page.locator("body")).to_have_attribute("data-messages", re.compile("[1-9]"))


def test_with_keys_the_page_asks_for_one(page: Page, store: EmbeddedStore, keys: dict[str, str], folder: Any) -> None:
    with client_of(profiles=store.url, keys=folder / "keys.jsonl") as client:
        page.goto(f"{client.base_url}?user=paul")
        expect(page.locator("#state")).to_contain_text("an API key is needed")
        page.fill("#key", keys["read"])
        page.click("text=Watch")
        expect(page.locator("#profile-about")).to_have_text("nothing known yet")
        assert keys["read"] not in page.url


def test_the_page_of_the_api_lists_and_tries_every_operation(page: Page, site: Site, complaints: list[str]) -> None:
    page.goto(f"{site.url}/docs")
    expect(page.locator("section h2")).to_have_count(5)
    section = page.locator("section", has_text="/v1/recommend")
    section.locator("textarea").fill('{"user_id": "user-0", "k": 2}')
    section.locator("button").click()
    expect(section.locator("pre").last).to_contain_text('"status": "full"')
    assert complaints == []


def test_nothing_on_the_pages_comes_from_another_host(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/?user=user-0", "/docs"):
        page.goto(site.url + path)
        page.wait_for_load_state("networkidle")
    assert {url.split("/")[2] for url in asked} == {site.url.split("/")[2]}
