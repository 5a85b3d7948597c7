"""Ragged histories for a grown catalogue, each drawn after the history of one trained person.

People keep to a few items of their model's history and take copies of those by popularity, none twice: a person's items
come from few clusters. What an item's copies are is `grow`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shortlist.data.log import place_in
from shortlist.types import Int32, Int64

MEDIAN, SIGMA, LONGEST = 30, 1.2, 2000  # of the log-normal lengths: one person in a hundred has more than 500 events
EMPTY = 0.05  # share of people without history
CHUNK = 50_000  # people in memory at a time


@dataclass(frozen=True)
class Histories:
    """Histories as CSR, and whose history each was drawn after."""

    offsets: Int64  # [U + 1]
    rows: Int32  # [M] oldest first
    models: Int64  # [U] trained people

    def reordered(self, order: Int64) -> Histories:
        """The same with items in another order: row i is what was row `order[i]`, [N]."""
        return replace(self, rows=place_in(order)[self.rows])


def draw_histories(
    offsets: Int64,
    rows: Int32,
    users: int,
    popular: Callable[[Int32, np.random.Generator], Int32],
    items: int,
    rng: np.random.Generator,
) -> Histories:
    """Histories of `users` people over `items` items after those of trained people (`rows` by `offsets` [u + 1]).

    `popular` draws a copy of each given trained item.
    """
    known = np.flatnonzero(np.diff(offsets))
    models = known[rng.integers(0, len(known), users)]
    parts, lengths = [], []
    for start in range(0, users, CHUNK):
        person, chosen = _events(models[start : start + CHUNK], offsets, rows, popular, rng)
        _, first = np.unique(person * items + chosen, return_index=True)
        kept = np.sort(first)
        parts.append(chosen[kept])
        lengths.append(np.bincount(person[kept], minlength=min(CHUNK, users - start)))
    return Histories(
        np.concatenate([[0], np.cumsum(np.concatenate([*lengths, []]), dtype=np.int64)]),
        np.concatenate(parts) if parts else np.empty(0, np.int32),
        models,
    )


def _events(
    models: Int64,
    offsets: Int64,
    rows: Int32,
    popular: Callable[[Int32, np.random.Generator], Int32],
    rng: np.random.Generator,
) -> tuple[Int64, Int32]:
    """Who (by position in `models`) took which item, in order: [M], [M]. Repeats are still among them."""
    lengths = np.minimum(rng.lognormal(np.log(MEDIAN), SIGMA, len(models)), LONGEST).astype(np.int64)
    lengths[rng.random(len(models)) < EMPTY] = 0
    interests = 3 + lengths // 10  # items of the model's history, one after the other, that a person keeps to
    begin = rng.integers(0, 1 << 30, len(models))
    person = np.repeat(np.arange(len(models)), lengths)
    which = np.exp(rng.random(len(person)) * np.log(interests[person])).astype(np.int64)  # the first are the dearest
    model = models[person]
    place = (begin[person] + which) % (offsets[model + 1] - offsets[model])
    return person, popular(rows[offsets[model] + place], rng)
