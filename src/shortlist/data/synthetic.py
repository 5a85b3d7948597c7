"""A synthetic log shaped like life, of any size, for trying the whole system where no such log may be had.

Every random number comes from one seed. The generative model, and where its ideas are from:

    items       clusters of clusters: category, leaf (sub-category), creator, item are each a Gaussian step in a latent
                space of `DIM` dimensions (`synthetic_items`); a fifth of the items appear while the log runs
    popularity  Zipf's law within every leaf, with the exponent that is given (Zipf 1949; for access logs Breslau et
                al., INFOCOM 1999, find .64 to .83); who holds which rank drifts as a random walk by period
    people      1 to 3 interests (a leaf, and a taste within it) with Dirichlet weights, some replaced as time goes by;
                log-normal numbers of events, some people with none (`synthetic_people`)
    time        visits at each person's own hours, events of a visit seconds to minutes apart; the hour and the visit
                decide which interest it is, and the device
    sequences   the next item comes from the last one's leaf or creator, from the leaf that people go on to from it, or
                from the interest: a mixture of personalised Markov chains (Rendle et al., WWW 2010) whose parts are
                known here; among a few popular items, taste and the last item choose (`synthetic_walks`)
    reactions   view, click or buy, by how well the item fits: values are seconds of a view and the price of a purchase

Planted vectors are never written: models see ids, attributes and the log, as they would elsewhere. `recipe` is the
configuration that trains on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from shortlist.data.synthetic_items import LOCALES, make_catalogue
from shortlist.data.synthetic_people import DEVICES, People, Visits, make_people, plan_visits
from shortlist.data.synthetic_walks import KINDS, Taken, walk
from shortlist.errors import ConfigError

DIM = 24
MOST = 100_000_000  # items, people or events
LIMITS: dict[str, tuple[float, float]] = {
    "items": (100, MOST),
    "users": (10, MOST),
    "events_per_user": (2, 500),
    "days": (14, 3650),
    "exponent": (0.2, 2.0),
}


@dataclass(frozen=True)
class Sizes:
    """What is made. Raises ConfigError for a size outside LIMITS, and where all people's events would exceed MOST."""

    items: int
    users: int
    events_per_user: float = 20.0  # mean, people without events included
    days: int = 180
    exponent: float = 1.1  # of Zipf's law
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} = {value}: at least {least:g} and at most {most:g} is allowed")
        if self.seed < 0:
            raise ConfigError(f"--seed = {self.seed}: at least 0 is allowed")
        if self.users * self.events_per_user > MOST:
            asked = f"{self.users} users with {self.events_per_user:g} events each"
            raise ConfigError(f"{asked} are more than {MOST:,} events; lower --users or --events-per-user")


def synthesize(sizes: Sizes, folder: Path) -> Path:
    """Write interactions.parquet, items.parquet, users.parquet and config.yaml into `folder`; returns its path.

    Raises ConfigError where `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out = {folder}: it is a file; a folder is allowed")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sizes.seed)
    catalogue = make_catalogue(sizes.items, DIM, rng)
    people = make_people(sizes.users, sizes.events_per_user, catalogue, rng)
    visits = plan_visits(people, sizes.days, rng)
    taken = walk(catalogue, people, visits, sizes.days, sizes.exponent, rng)
    item_ids, user_ids = _ids("i", sizes.items), _ids("u", sizes.users)
    _interactions(people, visits, taken, item_ids, user_ids).write_parquet(folder / "interactions.parquet")
    catalogue.frame(item_ids).write_parquet(folder / "items.parquet")
    people.frame(user_ids).write_parquet(folder / "users.parquet")
    config = folder / "config.yaml"
    made = f"{sizes.items} items, {sizes.users} users, seed {sizes.seed}"
    text = yaml.safe_dump(recipe(folder.resolve()), sort_keys=False, default_flow_style=None, width=120)
    config.write_text(f"# Made by `shortlist data synthesize`: {made}.\n{text}", encoding="utf-8")
    return config


def recipe(folder: Path) -> dict[str, Any]:
    """The configuration that trains on the files in `folder`, for catalogues from thousands to a million items."""
    return {
        "data": {
            "source": "table",
            "path": str(folder / "interactions.parquet"),
            "item_path": str(folder / "items.parquet"),
            "user_path": str(folder / "users.parquet"),
            "item_attributes": {
                "category": "category",
                "sub_category": "identifier",
                "creator": "identifier",
                "locale": "category",
                "in_stock": "category",
                "age_rating": "numeric",
                "price": "numeric",
            },
            "user_attributes": {"home": "category", "age": "numeric"},
            "context_attributes": {"device": "category", "locale": "category"},
        },
        "split": {"protocol": "leave-one-out"},
        "retriever": {
            "mask_seen": True,
            "towers": [
                {
                    "family": "decay",
                    "dim": 64,
                    "history": 50,
                    "epochs": 2,
                    "learning_rate": 0.008,
                    "weight_decay": 0.0,
                    "negatives": 1024,
                }
            ],
            "linear": [],
        },
        "ranker": {"dim": 16, "epochs": 3},
        "filter": {"epochs": 2},
        "cascade": {"eligibility": ["category", "locale", "in_stock", "age_rating", "price"]},
    }


def _interactions(
    people: People, visits: Visits, taken: Taken, item_ids: pl.Series, user_ids: pl.Series
) -> pl.DataFrame:
    """The log in order of time."""
    owner = np.repeat(np.arange(len(people.lengths)), people.lengths)
    order = np.argsort(visits.times, kind="stable")
    owner = owner[order]
    return pl.DataFrame(
        [
            user_ids.gather(owner).alias("user_id"),
            item_ids.gather(taken.items[order]).alias("item_id"),
            pl.Series("timestamp", visits.times[order]),
            _named("event", KINDS, taken.kinds[order]),
            pl.Series("value", taken.values[order], nan_to_null=True),
            _named("device", DEVICES, visits.devices[order]),
            _named("locale", LOCALES, people.locales[owner]),
        ]
    )


def _named(name: str, names: tuple[str, ...], codes: Any) -> pl.Series:
    return pl.Series(name, names, dtype=pl.String).gather(codes)


def _ids(prefix: str, count: int) -> pl.Series:
    return pl.select(pl.format(prefix + "{}", pl.int_range(count))).to_series()
