"""The filter scores what the student was trained on, passes padding by, and compiles nothing when it serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.kernels.fuse_features import cpu
from shortlist.stages.filter import Filter
from shortlist.types import Candidates, UserBatch
from tests.factories import DIM, make_bundle, tiny_encoders

SIDE = tiny_encoders().side_width


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("filter") / "bundle")


@pytest.fixture(scope="module")
def filter_stage(bundle: Path) -> Filter:
    opened = Bundle.open(bundle)
    return Filter(opened, Catalog.load(opened))


def _request(rows: list[list[int]]) -> tuple[UserBatch, Candidates]:
    rng = np.random.default_rng(0)
    batch, count = len(rows), len(rows[0])
    users = UserBatch(
        history=np.zeros((batch, 1), np.int32),
        lengths=np.ones(batch, np.int64),
        side=rng.normal(size=(batch, SIDE)).astype(np.float32),
        vectors=rng.normal(size=(batch, DIM)).astype(np.float32),
        masked=(np.empty(0, np.int32),) * batch,
        segments=np.zeros(batch, np.int32),
    )
    channels = rng.normal(size=(batch, count, 2)).astype(np.float32)
    return users, Candidates(np.array(rows, np.int32), np.zeros((batch, count), np.float32), channels)


def test_a_score_is_that_of_the_item_for_the_person_and_the_request(filter_stage: Filter) -> None:
    users, candidates = _request([[3, 5, 8], [8, 3, 0]])
    vectors = filter_stage.items[candidates.rows, :DIM].astype(np.float32)
    expected = (users.vectors[:, None] * vectors).sum(axis=-1) + candidates.channels[..., 1]
    np.testing.assert_allclose(filter_stage.score(users, candidates), expected, atol=1e-5)


def test_padding_scores_minus_infinity(filter_stage: Filter) -> None:
    scores = filter_stage.score(*_request([[3, -1], [-1, -1]]))
    assert np.isneginf(scores).tolist() == [[False, True], [True, True]]


def test_the_best_stay_in_the_order_of_their_scores(filter_stage: Filter) -> None:
    users, candidates = _request([list(range(20))])
    kept = filter_stage(users, candidates, 5)
    assert kept.rows[0].tolist() == np.argsort(-filter_stage.score(users, candidates)[0])[:5].tolist()


def test_a_request_compiles_nothing(filter_stage: Filter) -> None:
    compiled = cpu.compiled.cache_info().misses
    filter_stage.score(*_request([[1, 2]]))
    assert cpu.compiled.cache_info().misses == compiled


def test_a_table_of_other_items_is_refused(bundle: Path, tmp_path: Path) -> None:
    opened, other = Bundle.open(bundle), Bundle.open(make_bundle(tmp_path / "other", items=200))
    with pytest.raises(ValueError, match="filter_items has 300 rows, the catalogue 200"):
        Filter(opened, Catalog.load(other))
