"""The baselines as an evaluation meets them."""

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Split, make_split
from shortlist.evaluation.baselines import ItemNeighbours
from shortlist.evaluation.fit import choose, fit_baselines


@pytest.fixture(scope="module")
def drifting() -> Split:
    """Users who move from group to group of six items, take four of each, and never come back to an earlier group."""
    rng = np.random.default_rng(0)
    groups = np.stack([rng.permutation(12)[:3] for _ in range(150)])
    rows = [group * 6 + rng.permutation(6)[:4] for group in groups.ravel()]
    users = np.repeat(np.arange(150), 12)
    log = InteractionLog.from_arrays(
        users, np.concatenate(rows), user_ids=[str(u) for u in range(150)], item_ids=[str(i) for i in range(72)]
    )
    return make_split(log, "leave-one-out")


def test_histories_fade_where_interests_drift(drifting: Split) -> None:
    model = ItemNeighbours.fit(drifting.train, mask_seen=True)
    choose([model], drifting.validation)
    assert model.decay < 0.9


def test_the_better_of_two_models_is_chosen(drifting: Split) -> None:
    weak = ItemNeighbours.fit(drifting.train.keep(np.zeros(len(drifting.train), bool)), mask_seen=True)
    strong = ItemNeighbours.fit(drifting.train, mask_seen=True)
    assert choose([weak, strong, weak], drifting.validation) is strong


def test_every_baseline_of_the_report_is_fitted(split: Split) -> None:
    names = [model.name for model in fit_baselines(split)]
    assert names == ["popularity", "item-knn", "ease", "als", "sasrec", "sasrec-tuned"]
