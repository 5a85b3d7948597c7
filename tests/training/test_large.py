"""The way of a large catalogue (sampled softmax by rows, sparse content, searched candidates), whole but small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from shortlist.cascade import Cascade
from shortlist.config import Config
from shortlist.data.synthetic import Sizes, recipe, synthesize
from shortlist.evaluation.experiment import evaluate_run
from shortlist.training.run import load_served_split, train
from shortlist.types import Request

LIMITS = (
    "models.items.ROWS_FROM",
    "data.features.DENSE_CELLS",
    "training.loop.FULL_SOFTMAX_LIMIT",
    "training.index.FLAT_UP_TO",
    "training.stages.EXACT_UP_TO",
    "evaluation.fit.FITTED_UP_TO",
    "evaluation.protocols.AUC_UP_TO",
)


@pytest.mark.slow
def test_a_large_catalogue_is_trained_evaluated_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIMITS:
        monkeypatch.setattr(f"shortlist.{name}", 1000)
    synthesize(Sizes(2000, 600), tmp_path / "data")
    run = train(small(tmp_path / "data"), tmp_path / "run", show_progress=False)
    evaluation = evaluate_run(run, "leave-one-out", sample=300).evaluation
    assert set(evaluation.models) == {"cascade", "cascade (diverse)", "ranker", "filter", "retriever", "popularity"}
    assert evaluation.models["cascade"]["hr@10"] > 2 * evaluation.models["popularity"]["hr@10"]
    cascade, (_, features) = Cascade.load(run / "bundle"), load_served_split(run)
    np.testing.assert_allclose(features.item_features, cascade.catalog.part("features"))
    (slate,) = cascade.recommend([Request(user_id=b"u7")])
    assert len(slate.item_ids) == 10


def small(data: Path) -> Config:
    """The recipe with little of everything."""
    settings = yaml.safe_load(yaml.safe_dump(recipe(data)))
    settings["retriever"]["towers"][0] |= {"dim": 16, "history": 20, "negatives": 256, "batch_tokens": 800}
    settings |= {"ranker": {"dim": 8, "history": 20, "epochs": 1, "positions": 4}}
    settings |= {"filter": {"epochs": 1, "hidden": [16]}}
    settings["cascade"] |= {"candidates": 100, "rank_depth": 40, "history": 20}
    return Config.parse(settings)
