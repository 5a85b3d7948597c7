"""The retriever: one inner product for all towers, channels beside it, and a faithful copy after saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shortlist.config import TowerConfig
from shortlist.errors import DataError
from shortlist.models.linear import LinearChannel
from shortlist.models.retriever import SETTINGS_FILE, WEIGHTS_FILE, Blend, Retriever, build_tower

N, S = 9, 3
ROWS = np.array([[0, 3, 5, 8], [2, 7, -1, -1], [-1, -1, -1, -1]])
LENGTHS = np.array([4, 2, 0])
SIDE = np.random.default_rng(2).normal(size=(3, S)).astype(np.float32)


@pytest.fixture
def retriever() -> Retriever:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    configs = [TowerConfig(family="decay", dim=8), TowerConfig(family="transformer", dim=16, layers=1, heads=2)]
    channel = LinearChannel(
        np.arange(0, 2 * N + 1, 2, dtype=np.int64),
        np.concatenate([rng.choice(N, 2, replace=False) for _ in range(N)]).astype(np.int32),
        rng.random(2 * N).astype(np.float32),
        0.8,
    )
    return Retriever(
        configs,
        [build_tower(config, S).eval() for config in configs],
        [rng.normal(size=(N, config.dim)).astype(np.float32) for config in configs],
        [channel],
        Blend((1.0, 0.0, 0.5), (2.0,)),
        side_width=S,
        mask_seen=True,
        report={"ndcg": 0.1},
    )


def test_the_inner_product_is_the_weighted_sum_of_the_towers(retriever: Retriever) -> None:
    expected = np.zeros((3, N))
    for tower, table, weight in zip(retriever.towers, retriever.tables, (1.0, 0.5), strict=True):
        history = torch.from_numpy(table[np.maximum(ROWS, 0)])
        with torch.no_grad():
            users = tower(history, torch.from_numpy(LENGTHS), torch.from_numpy(SIDE)).numpy()
        expected += weight * users @ table.T
    np.testing.assert_allclose(retriever.scores(ROWS, LENGTHS, SIDE)[0], expected, atol=1e-4)


def test_scores_are_the_product_of_user_and_item_vectors(retriever: Retriever) -> None:
    users = retriever.user_vectors(ROWS, LENGTHS, SIDE)
    np.testing.assert_allclose(users @ retriever.item_vectors().T, retriever.scores(ROWS, LENGTHS, SIDE)[0], atol=1e-5)


def test_the_user_module_reads_gathered_vectors(retriever: Retriever) -> None:
    history = torch.from_numpy(retriever.history_vectors()[np.maximum(ROWS, 0)])
    with torch.no_grad():
        users = retriever.user_module(history, torch.from_numpy(LENGTHS), torch.from_numpy(SIDE))
    np.testing.assert_allclose(users.numpy(), retriever.user_vectors(ROWS, LENGTHS, SIDE), atol=1e-5)


def test_somebody_without_history_has_no_linear_score(retriever: Retriever) -> None:
    _, linear = retriever.scores(ROWS, LENGTHS, SIDE)
    assert linear[0].any()
    assert not linear[2].any()


def test_a_score_depends_on_its_own_request_alone(retriever: Retriever) -> None:
    together = retriever.scores(ROWS, LENGTHS, SIDE)
    alone = retriever.scores(ROWS[1:2], LENGTHS[1:2], SIDE[1:2])
    for batched, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(batched[1:2], single, atol=1e-5)


def test_a_saved_retriever_scores_the_same(retriever: Retriever, tmp_path: Path) -> None:
    retriever.save(tmp_path)
    loaded = Retriever.load(tmp_path)
    for before, after in zip(retriever.scores(ROWS, LENGTHS, SIDE), loaded.scores(ROWS, LENGTHS, SIDE), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (loaded.blend, loaded.mask_seen, loaded.report) == (retriever.blend, True, {"ndcg": 0.1})


@pytest.mark.parametrize("name", [WEIGHTS_FILE, SETTINGS_FILE])
def test_a_damaged_file_is_refused(retriever: Retriever, tmp_path: Path, name: str) -> None:
    retriever.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(DataError, match="no readable retriever"):
        Retriever.load(tmp_path)
