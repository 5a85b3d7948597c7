"""The index suits the catalogue's size, answers from and to the GPU's memory, and keeps its temporary memory small."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from shortlist.devices.faiss_gpu import GpuIndex, Placement, cells_for, kind_for
from tests.devices.fake import Machine, install

ITEMS, DIM = 2000, 16


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _index(machine: Machine, vectors: np.ndarray, nprobe: int | None = None, **placement: object) -> GpuIndex:
    return GpuIndex(vectors, machine, machine.cuda.Stream(non_blocking=True), nprobe, Placement(**placement))  # type: ignore[arg-type]


def _recall(found: np.ndarray, vectors: np.ndarray, users: np.ndarray) -> float:
    best = np.argsort(-users @ vectors.T, axis=1)[:, : found.shape[1]]
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(best.tolist(), found.tolist(), strict=True)]))


@pytest.mark.parametrize(
    ("kind", "nprobe", "least"),
    [("flat", None, 1.0), ("sq8", 128, 0.95), ("pq", 128, 0.4)],
    ids=["flat", "IVF SQ8", "IVF PQ"],
)
def test_every_kind_finds_the_nearest(
    machine: Machine, vectors: np.ndarray, kind: str, nprobe: int | None, least: float
) -> None:
    users = vectors[:20] + 0.1
    found = _index(machine, vectors, nprobe, kind=kind).search(machine.asarray(users), 50)
    assert type(found) is machine.ndarray
    assert _recall(found, vectors, users) >= least


def test_one_gpu_searches_without_a_copy_to_the_host(machine: Machine, vectors: np.ndarray) -> None:
    index, users = _index(machine, vectors), machine.asarray(vectors[:3])
    index.search(users, 10)
    assert machine.counts.copies_out == 0


@pytest.mark.parametrize("spread", ["shards", "replicas"])
def test_several_gpus_find_the_same(machine: Machine, vectors: np.ndarray, spread: str) -> None:
    users = machine.asarray(vectors[:9])
    found = _index(machine, vectors, gpus=(0, 1), spread=spread).search(users, 20)
    assert np.array_equal(found, _index(machine, vectors).search(users, 20))


def test_temporary_memory_is_bounded_once_for_each_instance(machine: Machine, vectors: np.ndarray) -> None:
    _index(machine, vectors, temporary_bytes=64 << 20)
    assert [(r.temporary, r.stream) for r in faiss.StandardGpuResources.made] == [(64 << 20, 7)]


def test_fewer_cells_are_searched_unless_the_bundle_says_how_many(machine: Machine, vectors: np.ndarray) -> None:
    index = _index(machine, vectors, kind="sq8")
    assert faiss.extract_index_ivf(index._index).nprobe == cells_for(ITEMS) // 64


def test_cagra_needs_a_build_with_cuvs(machine: Machine, vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="faiss-gpu-cuvs"):
        _index(machine, vectors, kind="cagra")


def test_cagra_is_built_where_the_build_has_it(
    machine: Machine, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graph(faiss.IndexFlatIP):  # type: ignore[misc]
        def __init__(self, resources: object, dim: int, metric: int) -> None:
            super().__init__(dim)

        def train(self, data: np.ndarray) -> None:
            self.add(data)

    monkeypatch.setattr(faiss, "GpuIndexCagra", Graph, raising=False)
    users = vectors[:5]
    found = _index(machine, vectors, kind="cagra").search(machine.asarray(users), 10)
    assert _recall(found, vectors, users) == 1


def test_larger_catalogues_take_coarser_kinds() -> None:
    assert [kind_for(count) for count in (10**4, 10**6, 10**7, 10**8)] == ["flat", "flat", "sq8", "pq"]
