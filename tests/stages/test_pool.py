"""The pool of a device: sums in the CPU's order, sizes that repeat, and the same candidates as the CPU's loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.catalog import Catalog
from shortlist.devices.cpu import Cpu
from shortlist.stages.pool import MOST_NEAR, bring, bucket, choose
from shortlist.stages.retrieve import Retrieve
from shortlist.types import UserBatch
from tests.factories import DIM, make_bundle

ITEMS, BATCH = 3000, 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("pool") / "bundle", items=ITEMS))


@pytest.fixture
def retrieve(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Retrieve:
    monkeypatch.setattr("shortlist.stages.retrieve.EXACT_UP_TO", 10)
    retrieve = Retrieve(bundle, Catalog.load(bundle))
    retrieve.channels = [*retrieve.channels, retrieve.channels[0]]  # rows that stand once a channel
    return retrieve


def _users(masked: int) -> UserBatch:
    rng = np.random.default_rng(0)
    return UserBatch(
        np.stack([rng.choice(ITEMS, 10, replace=False) for _ in range(BATCH)]).astype(np.int32),
        rng.integers(1, 11, BATCH),
        np.zeros((BATCH, 1), np.float32),
        rng.normal(size=(BATCH, DIM)).astype(np.float32),
        tuple(rng.choice(ITEMS, masked, replace=False).astype(np.int32) for _ in range(BATCH)),
        np.zeros(BATCH, np.int32),
    )


@pytest.mark.parametrize(("masked", "depth"), [(1, 50), (300, 50), (1500, 500), (0, 1)])
def test_the_candidates_are_those_of_the_loop(retrieve: Retrieve, masked: int, depth: int) -> None:
    users = _users(masked)
    expected = retrieve(users, depth)
    brought, _ = bring(Cpu(), users, retrieve._sparse(users, depth), ITEMS, np.zeros(BATCH, np.float32))
    found = choose(np, brought, retrieve.vectors, retrieve.index, depth)
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.scores, expected.scores)
    assert np.array_equal(found.channels, expected.channels)


def test_who_excludes_more_than_the_index_finds_gets_none_of_it(retrieve: Retrieve) -> None:
    users = replace(_users(0), masked=(np.arange(2900, dtype=np.int32),) * BATCH)
    brought, _ = bring(Cpu(), users, retrieve._sparse(users, 50), ITEMS, np.zeros(BATCH, np.float32))
    rows = choose(np, brought, retrieve.vectors, retrieve.index, 50).rows
    assert (rows[rows >= 0] >= 2900).all()


def test_sizes_repeat() -> None:
    assert [bucket(count) for count in (0, 1, 64, 65, 1000)] == [64, 64, 64, 128, 1024]
    assert bucket(5000, MOST_NEAR) == MOST_NEAR
