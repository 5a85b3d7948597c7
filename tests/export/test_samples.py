"""Variants are judged on what a bundle's own users ask for, and given what the kernel would give them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle
from shortlist.errors import BundleError
from shortlist.export.emulate import top_overlap
from shortlist.export.parity import run_graph
from shortlist.export.samples import Subject, bundle_subjects
from shortlist.export.variants import make_variant
from shortlist.kernels.fuse_features import Columns, fuse_features, make_columns
from shortlist.kernels.fuse_features.columns import retyped
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def subjects(planted_run: Path) -> dict[str, Subject]:
    return {subject.model: subject for subject in bundle_subjects(Bundle.open(planted_run / "bundle"), 40)}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_trained_models_keep_the_choice_of_fp32(model: str, precision: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[model]
    variant = make_variant(subject.graph, precision, subject.ranges)
    assert top_overlap(subject.graph, variant, subject.inputs, subject.real)["top10"] >= 0.98


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_users_retrieve_what_they_did_in_fp32(precision: str, subjects: dict[str, Subject]) -> None:
    user = subjects["user"]
    variant = make_variant(user.graph, precision, {})
    assert top_overlap(user.graph, variant, user.inputs, user.real, items=user.items)["top10"] >= 0.98


@pytest.mark.parametrize("model", ["filter", "ranker"])
def test_there_is_a_score_for_every_candidate(model: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[model]
    scores = run_graph(subject.graph, subject.inputs).reshape(subject.real.shape)
    assert np.isfinite(scores[subject.real]).all()


def test_buckets_are_of_the_configured_sizes(subjects: dict[str, Subject], planted_run: Path) -> None:
    config = Bundle.open(planted_run / "bundle").metadata["cascade"]
    assert subjects["filter"].profiles[0]["pairs"][0] == config["candidates"]
    assert subjects["ranker"].profiles[0]["candidates"][0] == config["rank_depth"]
    assert subjects["ranker"].profiles[0]["history"][0] == config["history"]


def test_a_bundle_without_histories_is_refused(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle")
    offsets = path / "profile_offsets.npy"
    np.save(offsets, np.zeros_like(np.load(offsets)))
    with pytest.raises(BundleError, match="no stored user has a history"):
        bundle_subjects(Bundle.open(path, verify=False))


def test_one_user_is_enough(tmp_path: Path) -> None:
    for subject in bundle_subjects(Bundle.open(make_bundle(tmp_path / "bundle", users=1))):
        assert run_graph(subject.graph, subject.inputs).size > 0


WIDTH, CLIP = 20, 4.0


@pytest.fixture
def columns() -> Columns:
    rng = np.random.default_rng(0)
    mean, deviation, weight = rng.normal(size=(3, WIDTH)).astype(np.float32)
    return make_columns(mean, np.abs(deviation) + 0.1, weight, 0.3, CLIP)


def _fused(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    items, rows = rng.normal(size=(50, 12)).astype(np.float32), rng.integers(-1, 50, (4, 9)).astype(np.int32)
    users, side = rng.normal(size=(2, 4, 6)).astype(np.float32)
    channels = rng.normal(size=(4, 9, 2)).astype(np.float32)
    features, linear = fuse_features(items, rows, users, channels, side, columns)
    return features[rows >= 0], linear


def test_int8_features_are_the_cpus_with_another_zero(columns: Columns) -> None:
    signed, _ = _fused(retyped(columns, "int8", CLIP / 127))
    unsigned, _ = _fused(columns)
    assert np.abs(signed.astype(int) - (unsigned.astype(int) - 128)).max() <= 1  # ties may fall to either side
    assert (signed.astype(int) == unsigned.astype(int) - 128).mean() > 0.99


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float_features_are_the_cpus_before_rounding(dtype: str, columns: Columns) -> None:
    exact, _ = _fused(retyped(columns, dtype, CLIP / 127))
    rounded, _ = _fused(columns)
    steps = exact.astype(np.float64) / (CLIP / 127)
    assert np.abs(steps - (rounded.astype(np.float64) - 128)).max() < 0.6


def test_the_linear_part_is_the_same_for_all(columns: Columns) -> None:
    np.testing.assert_array_equal(_fused(retyped(columns, "float16", CLIP / 127))[1], _fused(columns)[1])


def test_retyping_leaves_the_clip_where_it_was(columns: Columns) -> None:
    loud = replace(columns, multiplier=columns.multiplier * 1000)
    features, _ = _fused(retyped(loud, "float32", CLIP / 127))
    assert features.max() == pytest.approx(CLIP)
