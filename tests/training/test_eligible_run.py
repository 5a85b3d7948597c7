"""From a table of items with attributes to a trained bundle that answers predicates over them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from shortlist.cascade import Cascade
from shortlist.config import Config
from shortlist.errors import ConfigError
from shortlist.training.run import train
from shortlist.types import Request, Slate
from tests.planted import small_config, write_walks


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("walks")
    lines = [line.split() for line in write_walks(folder / "walks.txt").read_text().splitlines()]
    events = [(user, item, place) for user, *items in lines for place, item in enumerate(items)]
    pl.DataFrame(events, schema=["user", "item", "time"], orient="row").write_csv(folder / "events.csv")
    rings = {"item": [f"item{i}" for i in range(120)], "ring": [f"r{i // 40}" for i in range(120)]}
    pl.DataFrame({**rings, "stock": [i % 4 != 0 for i in range(120)]}).write_csv(folder / "items.csv")
    content = small_config(folder / "events.csv").model_dump()
    content["data"] = {
        "source": "table",
        "path": folder / "events.csv",
        "item_path": folder / "items.csv",
        "columns": {"user_id": "user", "item_id": "item", "timestamp": "time"},
        "item_attributes": {"ring": "category", "stock": "category"},
    }
    content["cascade"]["eligibility"] = ("ring", "stock")
    return Config.parse(content)


@pytest.mark.slow
def test_a_trained_bundle_answers_predicates(config: Config, tmp_path: Path) -> None:
    cascade = Cascade.load(train(config, tmp_path / "run", show_progress=False) / "bundle")
    for user in (b"user7", b"nobody"):
        (slate,) = cascade.recommend([Request(user_id=user, eligible={"ring": ["r1"], "stock": True})])
        assert isinstance(slate, Slate)
        places = [int(item.removeprefix(b"item")) for item in slate.item_ids]
        assert len(places) == 10
        assert all(40 <= place < 80 and place % 4 for place in places)


def test_an_attribute_that_items_do_not_have_is_refused_before_training(config: Config, tmp_path: Path) -> None:
    wrong = config.model_copy(update={"cascade": config.cascade.model_copy(update={"eligibility": ("colour",)})})
    with pytest.raises(ConfigError, match="'colour', which is no item attribute; allowed: ring, stock"):
        train(wrong, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
