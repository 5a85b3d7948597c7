from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.config import Config
from shortlist.data.dataset import Dataset, load_dataset
from shortlist.data.synthetic import Sizes, recipe, synthesize
from shortlist.data.synthetic_items import make_catalogue, zipf_ranks
from shortlist.errors import ConfigError

ITEMS, USERS = 3000, 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(Sizes(ITEMS, USERS), tmp_path_factory.mktemp("synthetic")).parent


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(Config.read(folder / "config.yaml").data)


@pytest.fixture(scope="module")
def events(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "interactions.parquet")


def test_the_configuration_that_is_written_reads_every_row(dataset: Dataset, events: pl.DataFrame) -> None:
    assert (len(dataset.interactions), len(dataset.items), len(dataset.users)) == (len(events), ITEMS, USERS)
    assert len(dataset.rejected) == 0


def test_popularity_falls_like_a_power_of_the_rank(dataset: Dataset) -> None:
    counts = np.sort(dataset.log().popularity())[::-1]
    ranks = np.arange(10, ITEMS // 5)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks]), 1)[0]
    assert -1.3 < slope < -0.5


def test_a_larger_exponent_gives_a_steeper_popularity(tmp_path: Path) -> None:
    shares = []
    for exponent in (0.5, 1.5):
        made = synthesize(Sizes(ITEMS, USERS, exponent=exponent), tmp_path / str(exponent))
        counts = np.sort(load_dataset(Config.read(made).data).log().popularity())[::-1]
        shares.append(counts[: ITEMS // 20].sum() / counts.sum())
    assert shares[1] > 1.3 * shares[0]


def test_popularity_drifts(dataset: Dataset) -> None:
    log = dataset.log()
    early = log.timestamps < np.quantile(log.timestamps, 0.3)
    late = log.timestamps > np.quantile(log.timestamps, 0.7)
    top = [set(np.argsort(-np.bincount(log.rows[part], minlength=ITEMS))[:100]) for part in (early, late)]
    assert 10 < len(top[0] & top[1]) < 90


def test_histories_are_ragged_and_some_people_have_none(dataset: Dataset) -> None:
    lengths = dataset.log().lengths()
    assert (lengths == 0).sum() == round(0.03 * USERS)
    assert lengths.mean() == pytest.approx(20, rel=0.15)
    assert lengths.max() > 10 * np.median(lengths)


def test_the_next_item_depends_on_the_last_one(dataset: Dataset) -> None:
    leaves = dataset.items["sub_category"].cast(pl.Categorical).to_physical().to_numpy()
    log = dataset.log()
    taken = leaves[log.rows]
    same_person = np.diff(log.users()) == 0
    follows = (taken[1:] == taken[:-1])[same_person].mean()
    shuffled = (np.random.default_rng(0).permutation(taken)[1:] == taken[:-1])[same_person].mean()
    assert follows > 5 * shuffled


def test_times_span_the_days_and_leave_the_night_quiet(dataset: Dataset) -> None:
    times = dataset.log().timestamps
    assert 170 * 86_400 < times.max() - times.min() < 182 * 86_400
    hours = np.bincount(times % 86_400 // 3600, minlength=24)
    assert hours[18:23].sum() > 5 * hours[2:7].sum()


def test_views_have_seconds_purchases_a_price_and_clicks_no_value(events: pl.DataFrame) -> None:
    known = dict(events.group_by("event").agg(pl.col("value").is_not_null().mean()).iter_rows())
    assert known == {"view": 1.0, "click": 0.0, "buy": 1.0}


def test_requests_have_a_device_and_a_locale(dataset: Dataset) -> None:
    assert dataset.context_attributes == {"device": "category", "locale": "category"}


def test_clusters_lie_within_clusters() -> None:
    catalogue = make_catalogue(2000, 24, np.random.default_rng(0))
    cosines = catalogue.vectors @ catalogue.vectors.T
    category = catalogue.categories[catalogue.leaves]
    alike = [groups[:, None] == groups for groups in (catalogue.creators, catalogue.leaves, category)]
    apart = [cosines[inner & ~np.eye(2000, dtype=bool)].mean() for inner in alike] + [cosines[~alike[-1]].mean()]
    assert apart == sorted(apart, reverse=True)


def test_the_same_seed_gives_the_same_log(folder: Path, tmp_path: Path) -> None:
    again = synthesize(Sizes(ITEMS, USERS), tmp_path / "again").parent
    for name in ("interactions.parquet", "items.parquet", "users.parquet"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_gives_another_log(events: pl.DataFrame, tmp_path: Path) -> None:
    other = synthesize(Sizes(ITEMS, USERS, seed=1), tmp_path / "other").parent
    assert not pl.read_parquet(other / "interactions.parquet").equals(events)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_ranks_follow_zipfs_law(exponent: float) -> None:
    uniform = np.random.default_rng(0).random(200_000, np.float32)
    counts = np.bincount(zipf_ranks(uniform, np.full(200_000, 1000, np.int32), exponent), minlength=1000)
    assert len(counts) == 1000
    slope = np.polyfit(np.log(np.arange(10, 100)), np.log(counts[10:100]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.12)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"items": 5}, "--items = 5: at least 100 and at most 1e[+]08 is allowed"),
        ({"users": 0}, "--users = 0"),
        ({"events_per_user": 0.0}, "--events-per-user = 0.0: at least 2"),
        ({"users": 90_000_000}, "90000000 users with 20 events each are more than 100,000,000 events"),
        ({"exponent": float("nan")}, "--exponent = nan"),
        ({"days": 1}, "--days = 1"),
        ({"seed": -1}, "--seed = -1"),
    ],
)
def test_bad_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sizes(**{"items": 1000, "users": 100, **sizes})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="it is a file"):
        synthesize(Sizes(1000, 100), tmp_path / "taken")


def test_the_shipped_configuration_is_the_one_that_is_written() -> None:
    shipped = Config.read(Path(__file__).parents[2] / "configs" / "million.yaml")
    assert shipped == Config.parse(recipe(Path("data/million")))
