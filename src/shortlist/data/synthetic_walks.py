"""What the people of a synthetic log take, one event after the other, for all people at once.

Each event either goes on from the last item (its leaf, its creator, the leaf that people go on to from it), follows
one of the person's interests, or strays. A few items of the chosen leaf are then drawn by popularity, and one of them
is taken by taste: sampling-importance-resampling (Rubin 1987) from popularity × exp(taste).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shortlist.data.synthetic_items import PERIODS, SUCCESSORS, Catalogue, unit
from shortlist.data.synthetic_people import INTERESTS, SECONDS_PER_DAY, START, TASTE, People, Visits
from shortlist.types import Bool, Float32, Int32, Int64

STAY, CREATOR, ONWARD, STRAY = 0.3, 0.15, 0.25, 0.07  # chances within a visit; the rest follows the interest
STRAY_AT_FIRST = 0.1  # the same for the first event of a visit
MAIN_SUCCESSOR = 0.75  # chance of a leaf's first successor
DRAWN = 6  # items that taste chooses from
SHARPNESS = 6.0  # of taste, per unit of cosine
LAST_ITEM = 0.5  # weight of the last item beside the taste
FOREIGN, TOO_YOUNG, AGAIN = 2.0, 4.0, 1e6  # what taste loses by a wrong locale, an age rating, a recent repeat
CHANGE = 0.06  # chance at each visit that one interest is replaced
DAYTIME = 0.8  # how much the hour says about the interest
REMEMBERED = 48  # latest items that are not taken again
KINDS = ("view", "click", "buy")


@dataclass(frozen=True, eq=False)
class Taken:
    """Items and reactions, in the order of `Visits`; [E] each."""

    items: Int32
    kinds: Int32  # place in KINDS
    values: Float32  # seconds of a view, the price of a purchase; NaN for a click


@dataclass(eq=False)
class _State:
    """Where the people stand who have events left, the busiest first."""

    interests: Int32  # [A, INTERESTS]
    tastes: Float32  # [A, INTERESTS, D]
    weights: Float32
    current: Int64  # [A] interest of this visit
    last: Int32  # [A] last item, -1 before the first
    recent: Int32  # [A, REMEMBERED]

    def head(self, count: int) -> _State:
        """Views of the first `count` people."""
        return _State(*(getattr(self, name)[:count] for name in self.__dataclass_fields__))


def walk(
    catalogue: Catalogue, people: People, visits: Visits, days: int, exponent: float, rng: np.random.Generator
) -> Taken:
    """Draw the items of all events. Step t is taken by everyone who has more than t events, in one go."""
    order = np.argsort(-people.lengths, kind="stable")
    lengths, starts = people.lengths[order], visits.offsets[:-1][order]
    state = _State(
        people.interests[order],
        people.tastes[order],
        people.weights[order],
        np.zeros(len(order), np.int64),
        np.full(len(order), -1, np.int32),
        np.full((len(order), REMEMBERED), -1, np.int32),
    )
    fixed = np.stack([people.locales[order], people.ages[order]], axis=1)
    periods = np.minimum((visits.times - START) * PERIODS // (days * SECONDS_PER_DAY), PERIODS - 1).astype(np.int32)
    hours, items = visits.hours, np.empty(len(visits.times), np.int32)
    fits = np.empty(len(items), np.float32)
    left = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")
    for step, count in enumerate(left):
        event = starts[:count] + step
        here = state.head(count)
        _begin_visits(catalogue, here, np.flatnonzero(visits.opens[event]), hours[event], rng)
        leaves, by_creator = _where(catalogue, here, visits.opens[event], rng)
        drawn = _drawn(catalogue, here, leaves, by_creator, periods[event], exponent, rng)
        items[event], fits[event] = _taken(catalogue, here, drawn, fixed[:count], rng)
        here.last[:] = items[event]
        here.recent[:, step % REMEMBERED] = items[event]
    return Taken(items, *_reactions(catalogue, items, fits, rng))


def _begin_visits(catalogue: Catalogue, state: _State, who: Int64, hours: Int64, rng: np.random.Generator) -> None:
    """Replace some interests, and choose the interest of each visit by weight and hour."""
    changing = who[rng.random(len(who)) < CHANGE]
    slot = rng.integers(0, INTERESTS, len(changing))
    fresh = rng.integers(0, len(catalogue.categories), len(changing))
    onward = catalogue.successors[state.interests[changing, slot], rng.integers(0, SUCCESSORS, len(changing))]
    leaf = np.where(rng.random(len(changing)) < 0.5, onward, fresh)
    noise = rng.standard_normal((len(changing), catalogue.leaf_vectors.shape[1]), np.float32)
    state.interests[changing, slot] = leaf
    state.tastes[changing, slot] = unit(catalogue.leaf_vectors[leaf] + TASTE * noise / np.sqrt(noise.shape[1]))
    angle = (hours[who, None] - catalogue.peaks[state.interests[who]]) * np.float32(np.pi / 12)
    chances = np.cumsum(state.weights[who] * (1 + DAYTIME * np.cos(angle)), axis=1)
    state.current[who] = (rng.random((len(who), 1)) * chances[:, -1:] > chances).sum(axis=1).clip(0, INTERESTS - 1)


def _where(catalogue: Catalogue, state: _State, opens: Bool, rng: np.random.Generator) -> tuple[Int32, Bool]:
    """The leaf [A] that each person looks at, and who looks at the last item's creator instead."""
    everyone = np.arange(len(opens))
    chance = np.where(opens, 2.0, rng.random(len(opens)))  # a visit begins with an interest
    before = catalogue.leaves[np.maximum(state.last, 0)]
    second = (rng.random(len(opens)) >= MAIN_SUCCESSOR).astype(np.int64)
    leaves = state.interests[everyone, state.current]
    leaves = np.where(chance < STAY + CREATOR + ONWARD, catalogue.successors[before, second], leaves)
    leaves = np.where(chance < STAY + CREATOR, before, leaves)
    straying = rng.random(len(opens)) < np.where(opens, STRAY_AT_FIRST, STRAY)
    popular = np.searchsorted(np.cumsum(catalogue.leaf_shares), rng.random(int(straying.sum())))
    leaves[straying] = np.minimum(popular, len(catalogue.leaf_shares) - 1)
    return leaves, (chance >= STAY) & (chance < STAY + CREATOR) & ~straying


def _drawn(
    catalogue: Catalogue,
    state: _State,
    leaves: Int32,
    by_creator: Bool,
    periods: Int32,
    exponent: float,
    rng: np.random.Generator,
) -> Int32:
    """DRAWN items [A, DRAWN] that each person sees, by popularity; -1 where there is none."""
    uniform = rng.random((len(leaves), DRAWN), np.float32)
    drawn = catalogue.by_leaf.pick(periods[:, None], leaves[:, None], uniform, exponent)
    creator = catalogue.creators[state.last[by_creator]][:, None]
    own = catalogue.by_creator.pick(np.int32(0), creator, uniform[by_creator], exponent)  # type: ignore[arg-type]
    drawn[by_creator] = np.where(own >= 0, own, drawn[by_creator])
    return drawn


def _taken(
    catalogue: Catalogue, state: _State, drawn: Int32, fixed: Int32, rng: np.random.Generator
) -> tuple[Int32, Float32]:
    """The item [A] that each person takes of those drawn, and how well it fits (a cosine)."""
    everyone, rows = np.arange(len(drawn)), np.maximum(drawn, 0)
    anchor = state.tastes[everyone, state.current]
    anchor = unit(anchor + LAST_ITEM * catalogue.vectors[state.last] * (state.last >= 0)[:, None])
    fit = np.einsum("akd,ad->ak", catalogue.vectors[rows], anchor)
    liking = SHARPNESS * fit - np.log(-np.log(rng.random(fit.shape, np.float32).clip(1e-7, 1 - 1e-7)))
    locale = catalogue.locales[rows]
    liking -= FOREIGN * ((locale >= 0) & (locale != fixed[:, :1]))
    liking -= TOO_YOUNG * (catalogue.ratings[rows] > fixed[:, 1:])
    liking -= AGAIN * ((rows[:, :, None] == state.recent[:, None, :]).any(axis=2) | (drawn < 0))
    best = liking.argmax(axis=1)
    return rows[everyone, best], fit[everyone, best]


def _reactions(catalogue: Catalogue, items: Int32, fits: Float32, rng: np.random.Generator) -> tuple[Int32, Float32]:
    """What people do with what they take: the better it fits, the more they click and buy."""
    keenness = 1 / (1 + np.exp(-4 * (fits - 0.5)))
    chance = rng.random(len(items))
    kinds = (chance < 0.4 * keenness).astype(np.int32) + (chance < 0.08 * keenness)
    seconds = rng.lognormal(3, 0.8, len(items)) * (0.5 + keenness)
    values = np.select([kinds == 0, kinds == 2], [np.round(seconds, 1), catalogue.prices[items]], np.nan)
    return kinds, values.astype(np.float32)
