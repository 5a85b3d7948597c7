"""Categories of a bundle's items."""

from pathlib import Path

import pytest

from shortlist.profiles import facts
from shortlist.profiles.facts import bundle_facts, no_facts
from shortlist.profiles.state import Facts
from tests.eligible import Item, attributes_of, make_items
from tests.factories import make_bundle

ITEMS = make_items(300)


@pytest.fixture(scope="module")
def categories(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Of the items of a bundle with attributes."""
    return bundle_facts(make_bundle(tmp_path_factory.mktemp("facts") / "bundle", attributes=attributes_of(ITEMS)))


def spelt(item: Item) -> set[str]:
    return {f"{name}:{value}" for name in ("in_stock", "locale", "genres") for value in item[name]}


def test_categories_are_the_named_values_of_an_items_attributes(categories: Facts) -> None:
    for row, item in enumerate(ITEMS):
        assert {name.decode() for name in categories(f"item-{row}".encode())} == spelt(item)


def test_an_unknown_item_has_none(categories: Facts) -> None:
    assert categories(b"no such item") == no_facts(b"item-0") == ()


def test_an_item_has_so_many_at_most(monkeypatch: pytest.MonkeyPatch, categories: Facts) -> None:
    monkeypatch.setattr(facts, "CATEGORIES", 2)
    categories.cache_clear()  # type: ignore[attr-defined]
    assert max(len(categories(f"item-{row}".encode())) for row in range(300)) == 2


def test_a_bundle_without_attributes_says_nothing(tmp_path: Path) -> None:
    assert bundle_facts(make_bundle(tmp_path / "bundle"))(b"item-0") == ()
