"""Running recommenders over examples: batches change nothing, and every number is where it belongs."""

import numpy as np
import pytest

from shortlist.data.splits import Examples, Split
from shortlist.evaluation import protocols
from shortlist.evaluation.baselines import ItemNeighbours, Popularity
from shortlist.evaluation.metrics import Catalogue
from shortlist.evaluation.protocols import batches, evaluate, recommend
from shortlist.types import Int32


class Oracle:
    """Knows the answer and has no scores."""

    name = "oracle"

    def top(self, examples: Examples, start: int, stop: int, k: int) -> Int32:
        rows = np.full((stop - start, k), -1, np.int32)
        rows[:, 0] = examples.targets()[start:stop]
        return rows


@pytest.fixture(scope="module")
def catalogue(split: Split) -> Catalogue:
    return Catalogue(split.train.popularity(), None)


def test_batches_cover_every_example_once(split: Split) -> None:
    steps = list(batches(split.test, 7))
    assert [i for start, stop in steps for i in range(start, stop)] == list(range(len(split.test)))


def test_a_batch_of_a_large_catalogue_holds_few_users(split: Split) -> None:
    class Large:
        n_items = 60_000

    many = Examples(Large(), np.zeros(10_000, np.int32), np.zeros(10_000, np.int32))  # type: ignore[arg-type]
    assert max(stop - start for start, stop in batches(many)) * Large.n_items <= protocols.SCORES_AT_ONCE


def test_the_size_of_batches_changes_no_list(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ItemNeighbours.fit(split.train, mask_seen=True)
    whole = recommend(model, split.test)
    monkeypatch.setattr(protocols, "MAX_BATCH", 7)
    assert recommend(model, split.test).tolist() == whole.tolist()


def test_an_oracle_is_perfect(split: Split, catalogue: Catalogue) -> None:
    means = evaluate([Oracle()], split, catalogue)[0].means()
    assert (means["hr@10"], means["ndcg@50"], means["mrr@10"]) == (1, 1, 1)


def test_a_model_without_scores_has_no_auc(split: Split, catalogue: Catalogue) -> None:
    oracle, popularity = evaluate([Oracle(), Popularity.fit(split.train, True)], split, catalogue)
    assert "auc" not in oracle.means()
    assert 0 < popularity.means()["auc"] < 1


def test_popularity_is_never_serendipitous(split: Split, catalogue: Catalogue) -> None:
    result = evaluate([Popularity.fit(split.train, True)], split, catalogue)[0]
    assert result.means()["serendipity@10"] == 0


def test_rolling_histories_hold_events_after_the_cut(rolling: Split) -> None:
    late = rolling.test.positions.astype(int) > rolling.train.lengths()[rolling.test.users]
    assert late.any()
    model = ItemNeighbours.fit(rolling.train, mask_seen=True)
    rows = recommend(model, rolling.test)
    for example in np.flatnonzero(late)[:10]:
        seen = rolling.test.log.history(rolling.test.users[example])[: rolling.test.positions[example]]
        assert not np.isin(seen, rows[example]).any()
