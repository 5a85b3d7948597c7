"""From a table of items with attributes to a trained bundle that answers predicates over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.cascade import Cascade
from shortlist.config import Config
from shortlist.errors import ConfigError
from shortlist.training.run import train
from shortlist.types import Request, Slate
from tests.planted import table_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    items = {f"item{i}": {"ring": f"r{i // 40}", "stock": i % 4 != 0} for i in range(120)}
    content = table_config(tmp_path_factory.mktemp("walks"), items)
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
