"""Floors follow from what a job moves, computes and waits for, and from the machine."""

from __future__ import annotations

import pytest

from shortlist.kernels.roofline import MACHINES, Work, dpp, floor, fuse_features, mmr, top_k

H100, L4 = MACHINES["H100 SXM"], MACHINES["L4"]


def test_moving_many_bytes_takes_bytes_over_bandwidth() -> None:
    found = floor(Work(bytes=335_000_000, operations=0, blocks=10_000, chain={}), H100, launch=0)
    assert (found.microseconds, found.bound) == (pytest.approx(100), "bandwidth")


def test_one_block_cannot_use_all_multiprocessors() -> None:
    one = floor(Work(0, operations=10**6, blocks=1, chain={}), H100, launch=0).microseconds
    many = floor(Work(0, operations=10**6, blocks=132, chain={}), H100, launch=0).microseconds
    assert one == pytest.approx(132 * many)


def test_one_block_more_than_multiprocessors_takes_another_turn() -> None:
    even, odd = (floor(Work(0, n * 10**4, n, {}), H100, launch=0).microseconds for n in (132, 133))
    assert odd == pytest.approx(2 * even)


def test_waits_follow_on_one_another() -> None:
    found = floor(Work(0, 0, 1, {"memory": 2, "barrier": 3}), H100, launch=2.0)
    assert found.microseconds == pytest.approx(2 + (2 * 600 + 3 * 30) / 1980)


def test_features_of_a_large_batch_are_limited_by_bandwidth() -> None:
    work = fuse_features(64, 500, 96, 64, 2, 16, 1, 1)
    assert [floor(work, machine).bound for machine in MACHINES.values()] == ["bandwidth"] * 3


def test_a_selection_of_one_batch_waits() -> None:
    assert [floor(job(16, 100, 64, 10, 2), H100).bound for job in (mmr, dpp)] == ["waits", "waits"]


def test_the_factor_makes_dpp_slower_than_mmr() -> None:
    arguments = (16, 100, 64, 10, 2)
    assert floor(dpp(*arguments), H100).microseconds > floor(mmr(*arguments), H100).microseconds


def test_features_move_each_row_and_each_result_once() -> None:
    work = fuse_features(batch=1, count=1, width=96, dim=64, channels=2, side=16, item_bytes=1, feature_bytes=1)
    row, index, channels, features, linear, request, constants = 96, 4, 8, 114, 4, 4 * (64 + 16), 3 * 4 * 114
    assert work.bytes == row + index + channels + features + linear + request + constants


def test_ranking_many_values_is_limited_by_comparisons() -> None:
    assert floor(top_k(16, 8192, 100, 128, 4), L4).bound == "operations"
