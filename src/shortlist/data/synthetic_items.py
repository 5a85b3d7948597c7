"""The catalogue of a synthetic log: clusters of clusters, creators, prices, and a popularity that drifts.

An item's planted vector is its leaf's (a sub-category) plus its creator's habit plus its own, all Gaussian, so that
categories hold leaves and leaves hold creators. What people do with the items is `shortlist.data.synthetic_walks`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.types import Float32, Int32, Int64

PERIODS = 12  # stretches of time within which popularity stands still
DRIFT = 0.35  # deviation of a log popularity's step from one period to the next
NEW_SHARE, NEW_BONUS = 0.2, 1.0  # items that appear after the start, and how much louder they begin
LEAF_SPREAD, CREATOR_SPREAD, ITEM_SPREAD = 0.7, 0.45, 0.6  # of deviations, a category's own being 1
SUCCESSORS = 2  # leaves that people go on to from a leaf
LOCALES, LOCALE_SHARES = ("en", "de", "fr", "es", "ja"), (0.45, 0.2, 0.15, 0.12, 0.08)
ANY_LOCALE = 0.7  # share of items that suit every locale
RATINGS, RATING_SHARES = (0, 6, 12, 16, 18), (0.55, 0.15, 0.15, 0.1, 0.05)
IN_STOCK = 0.93
FASHION = 1.0  # deviation of the logarithm of a leaf's visits per item


@dataclass(frozen=True, eq=False)
class Shelves:
    """Items by group, the most popular first, for each period; rank r of group g is `order[p, starts[g] + r]`."""

    order: Int32  # [P, N]
    starts: Int64  # [G]
    counts: Int32  # [P, G] items that exist by then

    def pick(self, periods: Int32, groups: Int32, uniform: Float32, exponent: float) -> Int32:
        """One item [...] for each of `groups` [...], its rank drawn from a Zipf law; -1 where a group is empty."""
        counts = self.counts[periods, groups]
        ranks = np.minimum(zipf_ranks(uniform, counts, exponent), np.maximum(counts - 1, 0))
        places = np.minimum(self.starts[groups] + ranks, self.order.shape[1] - 1)
        return np.where(counts > 0, self.order[periods, places], np.int32(-1))


@dataclass(frozen=True, eq=False)
class Catalogue:
    """N items in S leaves of C categories."""

    vectors: Float32  # [N, D], unit length
    leaves: Int32  # [N]
    creators: Int32  # [N]
    locales: Int32  # [N] place in LOCALES, -1 for all of them
    ratings: Int32  # [N] youngest age
    prices: Float32  # [N]
    in_stock: NDArray[np.bool_]  # [N]
    categories: Int32  # [S] category of each leaf
    leaf_vectors: Float32  # [S, D]
    leaf_shares: Float32  # [S] how often people come to a leaf without any reason of their own
    successors: Int32  # [S, SUCCESSORS]
    peaks: Float32  # [S] hour of the day at which the leaf's category is liked best
    by_leaf: Shelves
    by_creator: Shelves

    def __len__(self) -> int:
        return len(self.leaves)

    def frame(self, ids: pl.Series) -> pl.DataFrame:
        """The item table."""
        codes = pl.DataFrame({"category": self.categories[self.leaves], "leaf": self.leaves, "creator": self.creators})
        locale = np.array([*LOCALES, "any"])[self.locales]
        return codes.select(
            ids.alias("item_id"),
            pl.format("c{}", "category").alias("category"),
            pl.format("c{}-{}", "category", "leaf").alias("sub_category"),
            pl.format("by{}", "creator").alias("creator"),
            pl.Series("locale", locale),
            pl.Series("in_stock", np.where(self.in_stock, "yes", "no")),
            pl.Series("age_rating", self.ratings.astype(np.float64)),
            pl.Series("price", self.prices.astype(np.float64)),
        )


def make_catalogue(items: int, dim: int, rng: np.random.Generator) -> Catalogue:
    """Draw a catalogue of `items` items with planted vectors of width `dim`."""
    categories = max(3, round(0.9 * items**0.27))
    per_category = max(2, round(0.9 * items**0.24))
    leaves, creators = categories * per_category, max(4 * categories, round(0.6 * items**0.78))
    category_of = np.repeat(np.arange(categories, dtype=np.int32), per_category)
    centres = rng.standard_normal((categories, dim), np.float32)
    leaf_vectors = centres[category_of] + LEAF_SPREAD * rng.standard_normal((leaves, dim), np.float32)
    leaf_sizes = _uneven(leaves, rng)
    leaf_of_creator = rng.choice(leaves, creators, p=leaf_sizes).astype(np.int32)
    leaf_of_creator[:leaves] = rng.permutation(leaves)[:creators]  # no leaf stays empty
    creator = rng.choice(creators, items, p=_uneven(creators, rng)).astype(np.int32)
    creator[:creators] = np.arange(creators)  # nor does a creator
    leaf = leaf_of_creator[creator]
    habits = CREATOR_SPREAD * rng.standard_normal((creators, dim), np.float32)
    vectors = leaf_vectors[leaf] + habits[creator] + ITEM_SPREAD * rng.standard_normal((items, dim), np.float32)
    appeal, born = _popularity(items, creators, rng)
    level = np.exp(rng.normal(2.5, 0.8, categories)).astype(np.float32)
    return Catalogue(
        vectors=unit(vectors),
        leaves=leaf,
        creators=creator,
        locales=np.where(rng.random(items) < ANY_LOCALE, -1, _draw(len(LOCALES), LOCALE_SHARES, items, rng)),
        ratings=np.array(RATINGS, np.int32)[_draw(len(RATINGS), RATING_SHARES, items, rng)],
        prices=np.round(level[category_of[leaf]] * rng.lognormal(0, 0.5, items), 2).astype(np.float32),
        in_stock=rng.random(items) < IN_STOCK,
        categories=category_of,
        leaf_vectors=unit(leaf_vectors),
        leaf_shares=_visited(leaf, leaves, rng),
        successors=_successors(category_of, rng),
        peaks=rng.uniform(7, 24, categories).astype(np.float32)[category_of],
        by_leaf=_shelves(leaf, leaves, appeal, born),
        by_creator=_shelves(creator, creators, appeal[:1], born),
    )


def zipf_ranks(uniform: Float32, counts: Int32, exponent: float) -> Int64:
    """Ranks from 0 to counts - 1 with chances near (rank + 1) ** -exponent, by inverting the continuous law."""
    ends = counts + 1.0
    if abs(exponent - 1) < 1e-6:
        return (ends**uniform).astype(np.int64) - 1
    power = 1 - exponent
    return ((uniform * (ends**power - 1) + 1) ** (1 / power)).astype(np.int64) - 1


def unit(vectors: Float32) -> Float32:
    """The same directions with length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)


def _uneven(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Shares of groups, the largest many times the smallest."""
    sizes = rng.lognormal(0, 1, count)
    return np.asarray(sizes / sizes.sum(), np.float64)


def _visited(leaf: Int32, leaves: int, rng: np.random.Generator) -> Float32:
    visits = np.bincount(leaf, minlength=leaves) * rng.lognormal(0, FASHION, leaves)
    return np.asarray(visits / visits.sum(), np.float32)


def _draw(count: int, shares: tuple[float, ...], size: int, rng: np.random.Generator) -> Int32:
    return rng.choice(count, size, p=shares).astype(np.int32)


def _popularity(items: int, old: int, rng: np.random.Generator) -> tuple[Float32, Int32]:
    """Log popularity [P, N], a random walk over the periods, and the period [N] in which each item appears.

    The first `old` items are there from the start. Only the order within a group is used: the law of the ranks is
    Zipf's whatever these numbers are.
    """
    born = np.where(rng.random(items) < NEW_SHARE, rng.integers(1, PERIODS, items), 0).astype(np.int32)
    born[:old] = 0
    appeal = np.empty((PERIODS, items), np.float32)
    appeal[0] = rng.exponential(1.0, items)
    for period in range(1, PERIODS):
        appeal[period] = appeal[period - 1] + DRIFT * rng.standard_normal(items, np.float32)
        appeal[period, born == period] += NEW_BONUS
    return appeal, born


def _shelves(groups: Int32, count: int, appeal: Float32, born: Int32) -> Shelves:
    """Groups sorted by popularity in each period of `appeal` [P, N]; items yet to appear stand last."""
    absent = born > np.arange(len(appeal))[:, None]  # [P, N]
    order = np.stack([np.lexsort((-a, hidden, groups)) for a, hidden in zip(appeal, absent, strict=True)])
    counts = np.stack([np.bincount(groups[~hidden], minlength=count) for hidden in absent])
    sizes = np.bincount(groups, minlength=count)
    return Shelves(order.astype(np.int32), np.cumsum(sizes) - sizes, counts.astype(np.int32))


def _successors(category_of: Int32, rng: np.random.Generator) -> Int32:
    """For each leaf, another leaf of its category and one of anywhere."""
    leaves, per_category = len(category_of), int(np.bincount(category_of)[0])
    place = np.arange(leaves) % per_category
    within = category_of * per_category + (place + rng.integers(1, per_category, leaves)) % per_category
    elsewhere = (np.arange(leaves) + rng.integers(1, leaves, leaves)) % leaves
    return np.asarray(np.stack([within, elsewhere], axis=1), np.int32)
