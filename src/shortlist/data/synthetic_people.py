"""The people of a synthetic log: how much each does, when, on which device, and what each likes at first.

Lengths are log-normal with some people who never came; events come in visits, visits at a person's own hours. Which
items they take is `shortlist.data.synthetic_walks`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.synthetic_items import LOCALE_SHARES, LOCALES, Catalogue, unit
from shortlist.types import Bool, Float32, Int32, Int64

START = 1_735_689_600  # 2025-01-01 UTC
SECONDS_PER_DAY = 86_400
SPREAD = 1.1  # deviation of the logarithm of a person's number of events
LONGEST = 2000
COLD_SHARE = 0.03  # people without any event
VISIT = 4.0  # mean events of a visit
PAUSE = (4.0, 0.9)  # logarithm of the seconds between two events of a visit: mean, deviation
INTERESTS = 3
TASTE = 0.5  # how far a person's taste lies from the middle of a leaf
DEVICES = ("phone", "desktop", "tablet", "tv")
DEVICE_SHARES = (0.55, 0.3, 0.1, 0.05)
LOYALTY = 0.8  # chance that a visit is on the person's own device


@dataclass(frozen=True, eq=False)
class People:
    """M people; interests are leaves with a taste within them."""

    lengths: Int32  # [M] events
    locales: Int32  # [M]
    ages: Int32  # [M]
    devices: Int32  # [M]
    interests: Int32  # [M, INTERESTS] leaves
    tastes: Float32  # [M, INTERESTS, D], unit length
    weights: Float32  # [M, INTERESTS], 0 where a person has fewer; sum 1

    def frame(self, ids: pl.Series) -> pl.DataFrame:
        """The user table."""
        home = pl.Series("home", np.array(LOCALES)[self.locales])
        return pl.DataFrame([ids.alias("user_id"), home, pl.Series("age", self.ages.astype(np.float64))])


@dataclass(frozen=True, eq=False)
class Visits:
    """When and where the events of all people happen: by person, then in order of time; [E] each."""

    offsets: Int64  # [M + 1]
    times: Int64  # seconds since 1970 UTC
    opens: Bool  # the first event of a visit
    devices: Int32

    @property
    def hours(self) -> Int64:
        """Hour of the day, UTC."""
        return self.times % SECONDS_PER_DAY // 3600


def make_people(users: int, mean_events: float, catalogue: Catalogue, rng: np.random.Generator) -> People:
    """Draw people whose numbers of events have the mean `mean_events`."""
    lengths = rng.lognormal(np.log(mean_events / (1 - COLD_SHARE)) - SPREAD**2 / 2, SPREAD, users)
    lengths = np.clip(np.rint(lengths), 1, max(10, min(LONGEST, len(catalogue) // 4)))
    lengths[rng.permutation(users)[: max(1, round(COLD_SHARE * users))]] = 0
    interests = rng.choice(len(catalogue.leaf_shares), (users, INTERESTS), p=_normal(catalogue.leaf_shares))
    tastes = catalogue.leaf_vectors[interests]
    tastes += TASTE * rng.standard_normal(tastes.shape, np.float32) / np.sqrt(tastes.shape[2])
    weights = rng.dirichlet(np.ones(INTERESTS), users)
    weights[np.arange(INTERESTS) >= rng.integers(1, INTERESTS + 1, users)[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return People(
        lengths=lengths.astype(np.int32),
        locales=rng.choice(len(LOCALES), users, p=LOCALE_SHARES).astype(np.int32),
        ages=np.clip(rng.gamma(6, 6, users) + 10, 12, 90).astype(np.int32),
        devices=rng.choice(len(DEVICES), users, p=DEVICE_SHARES).astype(np.int32),
        interests=interests.astype(np.int32),
        tastes=unit(tastes),
        weights=weights.astype(np.float32),
    )


def plan_visits(people: People, days: int, rng: np.random.Generator) -> Visits:
    """Draw the times of all events; a person's visits are spread from the day of joining to the last day."""
    offsets = np.concatenate([[0], np.cumsum(people.lengths, dtype=np.int64)])
    owner = np.repeat(np.arange(len(people.lengths)), people.lengths)
    events = len(owner)
    opens = rng.random(events) < 1 / VISIT
    opens[offsets[:-1][people.lengths > 0]] = True
    visit = np.cumsum(opens) - 1
    of_visit = owner[opens]
    begin = _beginnings(len(people.lengths), of_visit, days, rng)
    pauses = np.minimum(rng.lognormal(*PAUSE, events), 3600.0)
    elapsed = np.cumsum(np.where(opens, 0.0, pauses))
    elapsed -= elapsed[np.flatnonzero(opens)][visit]
    times = begin[visit] + elapsed.astype(np.int64)
    own = rng.random(len(of_visit)) < LOYALTY
    other = rng.choice(len(DEVICES), len(of_visit), p=DEVICE_SHARES)
    device = np.where(own, people.devices[of_visit], other).astype(np.int32)
    order = np.lexsort((times, owner))  # visits of a busy person may overlap
    return Visits(offsets, START + times[order], opens[order], device[visit][order])


def _beginnings(users: int, of_visit: Int64, days: int, rng: np.random.Generator) -> Int64:
    """Seconds from START to the beginning of each visit, ascending for each person."""
    joined = np.maximum(rng.uniform(-0.6, 0.95, users), 0) * days
    day = np.floor(rng.uniform(joined[of_visit], days))
    habit = rng.normal(20, 2.5, users)  # most people's hour is in the evening
    usual, any_hour = rng.normal(habit[of_visit], 1.5), rng.uniform(7, 24, len(of_visit))
    hour = np.where(rng.random(len(of_visit)) < 0.7, usual, any_hour)
    seconds = ((day + hour % 24 / 24) * SECONDS_PER_DAY).astype(np.int64)
    return np.asarray(seconds[np.lexsort((seconds, of_visit))], np.int64)


def _normal(shares: Float32) -> NDArray[np.float64]:
    """The same shares with a sum of 1 in double precision."""
    wide = shares.astype(np.float64)
    return np.asarray(wide / wide.sum(), np.float64)
