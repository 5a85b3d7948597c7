"""Small catalogues get an exact index, large ones a clustered one that still proposes what it should."""

from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle, write_bundle
from shortlist.devices.cpu import Cpu, FaissIndex
from shortlist.devices.lists import SIZES
from shortlist.errors import BundleError
from shortlist.training import index as indexes
from shortlist.training.index import RECALL_TARGET, VectorIndex, build_index, nearest

DEPTH = 100


def as_bundle(path: Path, built: VectorIndex) -> Bundle:
    file = path.parent / "index.faiss"
    built.write(file)
    files = {"index.faiss": file}
    return Bundle.open(write_bundle(path, arrays=built.arrays, graphs={}, documents={}, files=files))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    spread = centres[rng.integers(0, 50, 20_000)] + 0.7 * rng.normal(size=(20_000, 16))
    return (spread * rng.lognormal(0, 0.3, (20_000, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def people(vectors: np.ndarray) -> np.ndarray:
    """Means of a few items: near none of them."""
    rng = np.random.default_rng(1)
    return vectors[rng.integers(0, len(vectors), (400, 8))].mean(axis=1)


@pytest.fixture(scope="module")
def clustered(vectors: np.ndarray, people: np.ndarray) -> VectorIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes, "FLAT_UP_TO", 1000)
        return build_index(vectors, DEPTH, seed=0, queries=people[:200])


@pytest.fixture
def searched(clustered: VectorIndex, tmp_path: Path) -> FaissIndex:
    return Cpu().index(as_bundle(tmp_path / "b", clustered), clustered.settings["nprobe"])


def proposals(clustered: VectorIndex) -> int:
    return round(DEPTH * clustered.settings["spare"])


def test_small_catalogues_are_searched_exactly(vectors: np.ndarray, people: np.ndarray, tmp_path: Path) -> None:
    built = build_index(vectors[:500], 50, seed=0)
    assert built.settings == {"nprobe": None, "spare": 1.0}
    found = Cpu().index(as_bundle(tmp_path / "b", built), None).search(people[:5], 1)
    assert found[:, 0].tolist() == (people[:5] @ vectors[:500].T).argmax(axis=1).tolist()


def test_people_that_tuned_nothing_get_their_recall(
    vectors: np.ndarray, people: np.ndarray, clustered: VectorIndex, searched: FaissIndex
) -> None:
    exact = np.argsort(-(people[200:] @ vectors.T), axis=1)[:, :DEPTH]
    found = clustered.order[searched.search(people[200:], proposals(clustered))]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) > RECALL_TARGET - 0.02


def test_not_every_cell_is_searched(clustered: VectorIndex) -> None:
    assert clustered.settings["nprobe"] < clustered.index.nlist / 2


def test_mapped_lists_propose_what_those_in_memory_do(vectors: np.ndarray, people: np.ndarray, tmp_path: Path) -> None:
    index = indexes._clustered(vectors, 64, np.random.default_rng(0))
    index.nprobe = 16
    _, expected = index.search(people, DEPTH)
    arrays, order = indexes.take_lists(index)
    mapped = Cpu().index(as_bundle(tmp_path / "b", VectorIndex(index, {}, order, arrays)), 16)
    assert np.array_equal(order[mapped.search(people, DEPTH)], expected)


def test_a_batch_proposes_what_each_request_alone_does(people: np.ndarray, searched: FaissIndex) -> None:
    together = searched.search(people[:48], DEPTH)
    alone = np.concatenate([searched.search(person[None], DEPTH) for person in people[:48]])
    assert np.array_equal(np.sort(together, axis=1), np.sort(alone, axis=1))


def test_every_vector_is_in_one_list(vectors: np.ndarray, clustered: VectorIndex) -> None:
    assert clustered.arrays[SIZES].sum() == len(vectors)


def test_rows_of_a_cell_follow_each_other_the_longest_first(vectors: np.ndarray, clustered: VectorIndex) -> None:
    lengths = np.linalg.norm(vectors[clustered.order], axis=1)
    firsts = np.cumsum(clustered.arrays[SIZES])[:-1]
    assert all((np.diff(cell) <= 1e-5).all() for cell in np.split(lengths, firsts))


def test_lists_of_another_index_are_refused(clustered: VectorIndex, tmp_path: Path) -> None:
    fewer = {**clustered.arrays, SIZES: clustered.arrays[SIZES][:-1]}
    bundle = as_bundle(tmp_path / "b", VectorIndex(clustered.index, {}, clustered.order, fewer))
    with pytest.raises(BundleError, match=r"index_lists\.npy: holds other lists than index\.faiss asks for"):
        Cpu().index(bundle, 1)


def test_the_same_seed_builds_the_same_index(
    vectors: np.ndarray, people: np.ndarray, clustered: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "FLAT_UP_TO", 1000)
    again = build_index(vectors, DEPTH, seed=0, queries=people[:200])
    assert again.settings == clustered.settings
    assert all(np.array_equal(again.arrays[name], array) for name, array in clustered.arrays.items())


def test_chunks_do_not_change_the_exact_nearest(
    vectors: np.ndarray, people: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "CHUNK", 3000)
    expected = np.argsort(-(people[:20] @ vectors.T), axis=1)[:, :30]
    assert np.array_equal(nearest(people[:20], vectors, 30), expected)
