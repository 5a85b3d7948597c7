"""Items with attributes, the predicates that may be asked of them, and the plain answer to each: for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shortlist.attributes import Attribute, Numbers, Values

LOCALES = ["de", "en", "fr", "is"]
GENRES = ["horror", "drama", "comedy", "western", "noir"]
Item = Mapping[str, list[Any]]  # attribute -> its values, none where it is missing


def make_items(count: int, seed: int = 0) -> list[Item]:
    """Items of which most are in stock, few are Icelandic, some have several genres and some no age rating."""
    rng = np.random.default_rng(seed)
    return [
        {
            "in_stock": ["true" if rng.random() < 0.8 else "false"],
            "locale": [] if rng.random() < 0.1 else [str(rng.choice(LOCALES, p=[0.5, 0.3, 0.19, 0.01]))],
            "genres": rng.choice(GENRES, rng.integers(0, 4), replace=False).tolist(),
            "age_rating": [] if rng.random() < 0.2 else [float(rng.choice([0, 6, 12, 16, 18]))],
            "price": [float(rng.random() * 100)],
        }
        for _ in range(count)
    ]


def attributes_of(items: Sequence[Item]) -> dict[str, Attribute]:
    """The same as a bundle keeps it."""
    found: dict[str, Attribute] = {}
    for name in ("in_stock", "locale", "genres"):
        pairs = [(row, value) for row, item in enumerate(items) for value in item[name]]
        names = sorted({value for _, value in pairs})
        rows = np.array([row for row, _ in pairs], np.int64)
        found[name] = Values.build(len(items), rows, np.array([names.index(v) for _, v in pairs], np.int64), names)
    for name in ("age_rating", "price"):
        found[name] = Numbers.build(np.array([item[name][0] if item[name] else np.nan for item in items]))
    return found


def is_eligible(item: Item, predicate: Mapping[str, Any]) -> bool:
    """What a predicate says of one item, spelt out."""
    return all(_holds(item[name], wanted) for name, wanted in predicate.items())


def _holds(values: Sequence[Any], wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        wanted = {"any": wanted if isinstance(wanted, list) else [wanted]}
    if not values:
        return bool(wanted.get("missing", False))
    spelt = {name: [_spelt(v, values) for v in wanted[name]] for name in ("any", "not") if name in wanted}
    return (
        ("any" not in spelt or any(v in spelt["any"] for v in values))
        and not any(v in spelt.get("not", []) for v in values)
        and all(v >= wanted.get("min", v) and v <= wanted.get("max", v) for v in values)
    )


def _spelt(value: Any, values: Sequence[Any]) -> Any:
    if isinstance(values[0], float):
        return float(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _conditions(values: st.SearchStrategy[Any], bounds: bool) -> st.SearchStrategy[Any]:
    some = st.lists(values, max_size=3)
    numbers = {name: st.sampled_from([0, 6, 11.5, 16, 100]) for name in ("min", "max")} if bounds else {}
    parts = st.fixed_dictionaries({}, optional={"any": some, "not": some, **numbers}).filter(bool)
    with_missing = st.builds(lambda given, missing: {**given, "missing": missing}, parts, st.booleans())
    return st.one_of(values, some, parts, with_missing)


def predicates() -> st.SearchStrategy[dict[str, Any]]:
    """Anything that may be asked of `make_items`, most of it by a few attributes."""
    return st.fixed_dictionaries(
        {},
        optional={
            "in_stock": _conditions(st.booleans(), bounds=False),
            "locale": _conditions(st.sampled_from([*LOCALES, "xx"]), bounds=False),
            "genres": _conditions(st.sampled_from(GENRES), bounds=False),
            "age_rating": _conditions(st.sampled_from([0, 6.0, 16, 7]), bounds=True),
            "price": _conditions(st.sampled_from([50, 1.5]), bounds=True),
        },
    )
