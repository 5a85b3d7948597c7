"""Which items a request may get at all: predicates over item attributes, each made once into a bitmap of the catalogue.

    {"in_stock": true, "locale": ["de", "en"], "age_rating": {"max": 16}, "category": {"not": ["horror"]}}

All attributes named must agree. A value is equality, a list is any of its values; an object may hold `any`, `not`, and
for numbers `min` and `max`, which all must agree, and `missing`: an item without a value is eligible only where that
is true. What is done with the bitmap is for retrieval and popularity to say. Items that are not on offer at the moment
(`shortlist.stages.assortment`) satisfy no predicate, not even the empty one.
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
from shortlist.data.values import refuse
from shortlist.types import Bitmap, Eligible, Int32, Request

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
Facts = Mapping[str, frozenset[float]]  # of one new item: codes of its values, or its number, by attribute


@dataclass(frozen=True, slots=True)
class Offer:
    """What is on offer now, where that is not the bundle's catalogue as it is."""

    number: int  # of all the offers there were
    bits: Bitmap  # rows, new ones too
    added: Mapping[int, Facts]  # the new ones, ascending
    everything: Eligible  # the same, for requests that ask for nothing


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a predicate allows of a bundle, and what of that was on offer when it was last asked for."""

    bits: Bitmap
    new: dict[int, bool]  # whether it allows a new row, of those it was asked about
    offer: int  # the number of that offer
    eligible: Eligible


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
    ) -> None:
        """`prepare` is told of every new predicate's rows before they are kept."""
        self.attributes = load_attributes(bundle)
        self.hits = self.compiled = 0  # predicates that were at hand, and that were not
        self._items, self._prepare, self._capacity = items, prepare, capacity
        self.offer: Offer | None = None  # None: everything that the bundle knows
        self._offers = 0
        self._kept: OrderedDict[Predicate, _Kept] = OrderedDict()
        self._bytes = 0
        self._standing: Predicate = frozenset()
        self._standing = self.read(standing or {})

    def of(self, requests: Sequence[Request]) -> tuple[Eligible | None, ...]:
        """The rows that each of B valid requests may get, None for all; () where nothing is asked for at all."""
        if self.offer is None and not self._standing and not any([r.eligible for r in requests]):
            return ()
        return tuple(self.rows(self.read(r.eligible)) for r in requests)

    def limit(self, bits: Bitmap, added: Mapping[int, Facts]) -> None:
        """From now on, offer only the rows of `bits`, new ones (`added`) among them. For any one thread."""
        self._offers += 1
        self.offer = Offer(self._offers, bits, added, self._found(bits, added))

    def allows(self, rows: Int32) -> bool:
        """Whether somebody who asks for nothing may get all of `rows`; -1 is an item that nobody knows."""
        allowed = self.rows(self._standing)
        return bool((rows >= 0).all() and (allowed is None or bitmap.contains(allowed.bits, rows).all()))

    def facts(self, attributes: Mapping[str, Any]) -> Facts:
        """What predicates can ask about an item with `attributes`, as in the training data.

        Raises RequestError for what is no number where the data have numbers.
        """
        found: dict[str, frozenset[float]] = {}
        for name, attribute in self.attributes.items():
            given = attributes.get(name)
            values = given if isinstance(given, list) else [] if given is None else [given]
            if isinstance(attribute, Numbers):
                found[name] = self._values(f"item.{name}", [v for v in values if v == v], attribute)  # NaN: none
            else:
                found[name] = frozenset(attribute.names.rows([_text(v) for v in values]).tolist())  # -1: unheard of
        return found

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
        offer = self.offer
        if not predicate:
            return offer.everything if offer else None
        kept = self._kept.get(predicate)
        if kept is not None and kept.offer == (offer.number if offer else 0):
            self.hits += 1
            self._kept.move_to_end(predicate)
            return kept.eligible
        self.compiled += 1
        bits, new = (kept.bits, kept.new) if kept else (self._allowed(predicate), {})
        eligible = self._on_offer(predicate, bits, new, offer) if offer else self._found(bits, {})
        self._keep(predicate, _Kept(bits, new, offer.number if offer else 0, eligible))
        return eligible

    def _keep(self, predicate: Predicate, kept: _Kept) -> None:
        """Note what a predicate allows, forgetting what was not asked for in a long time."""
        self._bytes += self._size(kept) - self._size(self._kept.pop(predicate, None))
        self._kept[predicate] = kept
        while self._bytes > self._capacity and len(self._kept) > 1:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])

    def _size(self, kept: _Kept | None) -> int:
        if kept is None:
            return 0
        own = 0 if kept.bits is kept.eligible.bits else kept.bits.nbytes
        return own + kept.eligible.nbytes + POPULAR_BYTES

    def _on_offer(self, predicate: Predicate, bits: Bitmap, new: dict[int, bool], offer: Offer) -> Eligible:
        """The rows of `bits` that are on offer, and the new ones that are; `new` is gone by, and added to."""
        for row in offer.added.keys() - new.keys():
            new[row] = all(_satisfies(offer.added[row], condition) for condition in predicate)
        added = {row: facts for row, facts in offer.added.items() if new[row]}
        limited = np.zeros_like(offer.bits)
        np.bitwise_and(bits, offer.bits[: len(bits)], out=limited[: len(bits)])
        bitmap.add(limited, _rows(added))
        return self._found(limited, added)

    def _found(self, bits: Bitmap, added: Mapping[int, Facts]) -> Eligible:
        known = bits[: bitmap.width(self._items)]
        found = Eligible(bits, bitmap.count(known), added=_rows(added) if added else None)
        self._prepare(found)
        return found

    def _condition(self, name: str, wanted: Any) -> Condition:
        field = f"eligible.{name}"
        attribute = self.attributes.get(name)
        if attribute is None:
            known = ", ".join(self.attributes)
            nothing = "nothing, as cascade.eligibility names no attribute"
            raise refuse(field, wanted, f"one of the attributes {known}" if known else nothing)
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

    def _allowed(self, predicate: Predicate) -> Bitmap:
        bits = bitmap.everything(self._items)
        for condition in predicate:
            np.bitwise_and(bits, self._holds(condition), out=bits)
        return bits

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


def _satisfies(facts: Facts, condition: Condition) -> bool:
    """Whether a new item is what a condition asks for."""
    values = facts[condition.attribute]
    if not values:
        return condition.missing
    among = condition.among is None or bool(values & condition.among)
    bounded = condition.low > -math.inf or condition.high < math.inf
    within = not bounded or all(condition.low <= value <= condition.high for value in values)
    return among and within and not values & condition.but


def _rows(added: Mapping[int, Facts]) -> Int32:
    return np.fromiter(added, np.int32, len(added))


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
