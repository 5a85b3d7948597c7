"""Which items a request may get at all: predicates over item attributes, each made once into a bitmap of the catalogue.

    {"in_stock": true, "locale": ["de", "en"], "age_rating": {"max": 16}, "category": {"not": ["horror"]}}

All attributes named must agree. A value is equality, a list is any of its values; an object may hold `any`, `not`, and
for numbers `min` and `max`, which all must agree, and `missing`: an item without a value is eligible only where that
is true. What is done with the bitmap is for retrieval and popularity to say.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortlist import bitmap
from shortlist.attributes import Attribute, Numbers, load_attributes
from shortlist.bundle import Bundle
from shortlist.data.columns import refuse
from shortlist.types import Bitmap, Eligible, Request

CACHED_BYTES = 32 << 20  # of bitmaps that an instance keeps: 256 predicates over a million items
LARGEST_INTEGER = 2**63  # longer ones are no value of a category
POPULAR_BYTES = 8_000  # what popularity may add to one


@dataclass(frozen=True, slots=True)
class Condition:
    """What one attribute must be: in its normal form, equal for equal meanings."""

    attribute: str
    among: frozenset[float] | None  # codes of values, or numbers; None: any
    but: frozenset[float]
    low: float
    high: float
    missing: bool  # whether items without a value are eligible


Predicate = frozenset[Condition]  # all of them hold


class Eligibility:
    """Checks predicates against a bundle's attributes and keeps their bitmaps, the last used up to `capacity` bytes.

    `standing` is a deployment's own predicate, which every request has to satisfy besides its own.
    """

    def __init__(
        self,
        bundle: Bundle,
        items: int,
        prepare: Callable[[Eligible], None] = lambda _: None,
        standing: Mapping[str, Any] | None = None,
        capacity: int = CACHED_BYTES,
        device: str = "cpu",
    ) -> None:
        """`prepare` is told of every new predicate's rows before they are kept.

        On another `device` than the CPU every predicate is refused: nothing there searches among eligible items yet.
        """
        self.attributes = load_attributes(bundle) if device == "cpu" else {}
        self._why_none = "cascade.eligibility names no attribute" if device == "cpu" else f"it runs on a {device}"
        self.hits = self.compiled = 0  # predicates that were at hand, and that were not
        self._items, self._prepare, self._capacity = items, prepare, capacity
        self._kept: OrderedDict[Predicate, Eligible] = OrderedDict()
        self._bytes = 0
        self._standing: Predicate = frozenset()
        self._standing = self.read(standing or {})

    def of(self, requests: Sequence[Request]) -> tuple[Eligible | None, ...]:
        """The rows that each of B valid requests may get, None for all; () where nothing is asked for at all."""
        if not self._standing and not any([r.eligible for r in requests]):
            return ()
        return tuple(self.rows(self.read(r.eligible)) for r in requests)

    def read(self, eligible: Mapping[str, Any]) -> Predicate:
        """The predicate that `eligible` spells, and the standing one. Raises RequestError naming what is wrong."""
        if not eligible:
            return self._standing
        if not isinstance(eligible, Mapping):
            raise refuse("eligible", eligible, "an object of attributes and what they must be")
        return self._standing | {self._condition(name, wanted) for name, wanted in eligible.items()}

    def examples(self) -> list[dict[str, Any]]:
        """Predicates of every kind that this bundle allows, the first of which leaves everything eligible."""
        everything = [{name: {"not": [], "missing": True}} for name in list(self.attributes)[:1]]
        return everything + [{name: {"any": _some(a), "missing": True}} for name, a in self.attributes.items()]

    def rows(self, predicate: Predicate) -> Eligible | None:
        """What `predicate` allows; None where that is everything."""
        if not predicate:
            return None
        found = self._kept.get(predicate)
        if found is not None:
            self.hits += 1
            self._kept.move_to_end(predicate)
            return found
        self.compiled += 1
        found = self._kept[predicate] = self._compile(predicate)
        self._bytes += found.nbytes + POPULAR_BYTES
        while self._bytes > self._capacity and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes + POPULAR_BYTES
        return found

    def _condition(self, name: str, wanted: Any) -> Condition:
        field = f"eligible.{name}"
        attribute = self.attributes.get(name)
        if attribute is None:
            known = ", ".join(self.attributes)
            raise refuse(field, wanted, f"one of the attributes {known}" if known else f"nothing, as {self._why_none}")
        values = wanted if isinstance(wanted, list) else [wanted]
        given: Mapping[str, Any] = wanted if isinstance(wanted, Mapping) else {"any": values}
        self._check_parts(field, given, attribute)
        return Condition(
            name,
            self._values(field, given["any"], attribute) if "any" in given else None,
            self._values(field, given.get("not", []), attribute),
            float(given.get("min", -math.inf)),
            float(given.get("max", math.inf)),
            given.get("missing", False),
        )

    def _check_parts(self, field: str, given: Mapping[str, Any], attribute: Attribute) -> None:
        bounds = ("min", "max") if isinstance(attribute, Numbers) else ()
        parts = ("any", "not", *bounds)
        if not set(given) <= {*parts, "missing"} or not set(given) & set(parts):
            raise refuse(field, dict(given), f"an object with {', '.join(parts)} and, beside them, missing")
        for name in given:
            value = given[name]
            if name in ("any", "not") and not isinstance(value, list):
                raise refuse(f"{field}.{name}", value, "a list")
            if name in bounds and (isinstance(value, bool) or not _is_number(value)):
                raise refuse(f"{field}.{name}", value, "a number")
            if name == "missing" and not isinstance(value, bool):
                raise refuse(f"{field}.{name}", value, "true or false")

    def _values(self, field: str, given: Iterable[Any], attribute: Attribute) -> frozenset[float]:
        """Codes of values, or numbers. A value that no item has matches nothing, and leaves no trace."""
        if isinstance(attribute, Numbers):
            for value in given:
                if not _is_number(value):
                    raise refuse(field, value, "a number, true (1) or false (0)")
            return frozenset(map(float, given))
        for value in given:
            if not isinstance(value, str | int) or (isinstance(value, int) and abs(value) >= LARGEST_INTEGER):
                raise refuse(field, value, "a string, an integer, true or false")
        codes = attribute.names.rows([_text(value) for value in given])
        return frozenset(codes[codes >= 0].tolist())

    def _compile(self, predicate: Predicate) -> Eligible:
        bits = bitmap.everything(self._items)
        for condition in predicate:
            np.bitwise_and(bits, self._holds(condition), out=bits)
        found = Eligible(bits, bitmap.count(bits))
        self._prepare(found)
        return found

    def _holds(self, condition: Condition) -> Bitmap:
        attribute = self.attributes[condition.attribute]
        present = attribute.present
        bits = present if condition.among is None else attribute.having(condition.among)
        if condition.low > -math.inf or condition.high < math.inf:
            assert isinstance(attribute, Numbers)
            bits = bits & attribute.between(condition.low, condition.high)
        if condition.but:
            bits = bits & ~attribute.having(condition.but)
        return bits | ~present if condition.missing else bits


def _some(attribute: Attribute) -> list[Any]:
    """The most and the least frequent value, or a number."""
    if isinstance(attribute, Numbers):
        return [0]
    names = attribute.names
    return [names.id(place).decode(errors="surrogatepass") for place in {0, len(names) - 1} if len(names)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max


def _text(value: str | int) -> bytes:
    """A value as the data spell it."""
    spelt = str(value).lower() if isinstance(value, bool) else str(value)
    return spelt.encode(errors="surrogatepass")
