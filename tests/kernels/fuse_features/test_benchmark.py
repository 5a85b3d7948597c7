"""Rivals of feature fusion do the same job, and each call a new one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shortlist.kernels.fuse_features import benchmark, fuse_features


@pytest.fixture(params=["int8", "float16"])
def batch(request: pytest.FixtureRequest) -> benchmark.Batch:
    return benchmark.made_up_batch(request.param, table=1000)


@pytest.mark.parametrize("rival", [benchmark.by_numpy, benchmark.by_torch])
def test_rivals_give_what_the_kernel_gives(rival, batch: benchmark.Batch) -> None:
    rows = next(batch.rows)
    given = (batch.users, batch.channels, batch.side, batch.columns)
    features, linear = fuse_features(batch.items, rows, *given)
    found = rival(replace(batch, rows=iter([rows])))()
    np.testing.assert_array_equal(found[0], features)
    np.testing.assert_allclose(found[1], linear, rtol=1e-4, atol=1e-3)


def test_no_two_calls_are_about_the_same_rows(batch: benchmark.Batch) -> None:
    assert not np.array_equal(next(batch.rows), next(batch.rows))


def test_the_roofline_reads_every_word_of_a_row() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**62, (9, 24), np.uint64)
    out = np.empty((3, 15), np.uint64)
    benchmark.mover(24, 15, 2)(words, np.array([4, 0, 8], np.int32), out)
    np.testing.assert_array_equal(out, words[[4, 0, 8], :15] ^ words[[4, 0, 8], 9:])


def test_bytes_count_the_table_and_the_results() -> None:
    assert benchmark.moved("int8") == 16 * 500 * (96 + 114 + 4)
    assert benchmark.moved("float16") == 16 * 500 * (192 + 114 + 4)
