"""The index suits the catalogue's size, answers from and to the GPU's memory, and keeps its temporary memory small."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from shortlist.devices.faiss_gpu import GpuIndex, Placement, cells_for, code_size, kind_for
from shortlist.errors import ConfigError
from tests.devices.fake import Machine, install
from tests.devices.fake_faiss import add_cuvs

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
    [("flat", None, 1.0), ("ivf_sq8", 128, 0.95), ("ivf_pq", 128, 0.4)],
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
def test_several_gpus_find_the_same(
    machine: Machine, vectors: np.ndarray, spread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.devices.faiss_gpu.CHUNK", 300)
    users = machine.asarray(vectors[:9])
    found = _index(machine, vectors, gpus=(0, 1), spread=spread).search(users, 20)
    assert np.array_equal(found, _index(machine, vectors).search(users, 20))


def test_temporary_memory_is_bounded_once_for_each_instance(machine: Machine, vectors: np.ndarray) -> None:
    _index(machine, vectors, temp_memory_mib=64)
    assert [(r.temporary, r.pinned) for r in faiss.StandardGpuResources.made] == [(64 << 20, 0)]


def test_faiss_works_on_our_stream(machine: Machine, vectors: np.ndarray) -> None:
    _index(machine, vectors)
    assert [r.streams for r in faiss.StandardGpuResources.made] == [{0: machine.streams[-1].ptr}]


def test_fewer_cells_are_searched_unless_the_bundle_says_how_many(machine: Machine, vectors: np.ndarray) -> None:
    index = _index(machine, vectors, kind="ivf_sq8")
    assert faiss.extract_index_ivf(index._index).nprobe == cells_for(ITEMS) // 64


def test_no_more_cells_are_searched_than_there_are(machine: Machine, vectors: np.ndarray) -> None:
    index = _index(machine, vectors, nprobe=5000, kind="ivf_sq8")
    assert faiss.extract_index_ivf(index._index).nprobe == cells_for(ITEMS)


@pytest.mark.parametrize(("dim", "bytes_"), [(64, 16), (128, 32), (100, 20), (320, 64), (384, 96), (1024, 64), (7, 1)])
def test_codes_have_a_size_that_a_gpu_can_search(dim: int, bytes_: int) -> None:
    assert code_size(dim) == bytes_


def test_vectors_of_any_width_can_be_coded(machine: Machine) -> None:
    wide = np.random.default_rng(0).normal(size=(ITEMS, 20)).astype(np.float32)  # five bytes are not among the sizes
    assert _index(machine, wide, kind="ivf_pq")._index.pq.M == 4


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kind": "hnsw"}, "gpu_index = 'hnsw': auto, flat, ivf_sq8, ivf_pq, cagra is allowed"),
        ({"kind": "cagra", "gpus": (0, 1)}, "gpu_index = 'cagra': lies on one GPU, .* over 2; choose flat"),
        ({"temp_memory_mib": 0}, r"gpu_temp_memory = 0: at least 1 \(MiB\)"),
    ],
    ids=["kind", "spread", "temporary memory"],
)
def test_a_placement_that_there_is_not_is_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Placement(**said)  # type: ignore[arg-type]


def test_cagra_needs_a_build_with_cuvs(machine: Machine, vectors: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="faiss-gpu-cuvs"):
        _index(machine, vectors, kind="cagra")


@pytest.mark.parametrize("k", [10, 64, 500])
def test_cagra_finds_as_many_as_are_asked_for(
    machine: Machine, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    add_cuvs(monkeypatch)
    users = vectors[:5]
    found = _index(machine, vectors, kind="cagra", gpus=(1,)).search(machine.asarray(users), k)
    assert _recall(found, vectors, users) == 1


def test_larger_catalogues_take_coarser_kinds() -> None:
    assert [kind_for(count) for count in (10**4, 10**6, 10**7, 10**8)] == ["flat", "flat", "ivf_sq8", "ivf_pq"]
