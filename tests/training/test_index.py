"""Small catalogues get an exact index, large ones a clustered one that still finds what it should."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from shortlist.training import index as indexes


def test_small_catalogues_are_searched_exactly(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    assert indexes.write_index(tmp_path / "i.faiss", vectors, 50, seed=0) is None
    _, found = faiss.read_index(str(tmp_path / "i.faiss")).search(vectors[:5], 1)
    assert found[:, 0].tolist() == (vectors[:5] @ vectors.T).argmax(axis=1).tolist()


def test_large_catalogues_reach_their_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "FLAT_UP_TO", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    vectors = (centres[rng.integers(0, 50, 6000)] + 0.3 * rng.normal(size=(6000, 16))).astype(np.float32)
    nprobe = indexes.write_index(tmp_path / "i.faiss", vectors, 100, seed=0)
    assert nprobe is not None
    loaded = faiss.read_index(str(tmp_path / "i.faiss"), faiss.IO_FLAG_MMAP)
    faiss.extract_index_ivf(loaded).nprobe = nprobe
    _, found = loaded.search(vectors[:100], 100)
    exact = np.argsort(-(vectors[:100] @ vectors.T), axis=1)[:, :100]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) > 0.93
