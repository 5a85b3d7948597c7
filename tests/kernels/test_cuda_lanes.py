"""What CUDA kernels share: arithmetic with the bits of `shortlist.kernels.numerics`, and the best of a block."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.kernels import numerics
from tests.kernels.cuda.emulator import build, launch

DOT = """#include "lanes.cuh"
extern "C" __global__ void dots(const ITEM* left, const ITEM* right, int count, float* out) {
    const int n = blockIdx.x * (THREADS * WIDTH / 16) + threadIdx.x * WIDTH / 16, lane = threadIdx.x % (16 / WIDTH);
    const bool reads = n < count;
    const int row = reads ? n : 0;
    const float total = lane_dot<DIM, WIDTH>(left + row * DIM, right + row * DIM, lane, reads);
    if (reads && lane == 0) out[n] = total;
}
"""
LOG = """#include "lanes.cuh"
extern "C" __global__ void logarithm(const float* x, float* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = lane_log(x[i]);
}
"""
BEST = """#include "lanes.cuh"
extern "C" __global__ void best(const float* values, const bool* takes_part, int* out) {
    const int i = threadIdx.x, at = blockIdx.x * THREADS + i;
    bool is_in = takes_part[at];
    for (int turn = 0; turn < 3; turn++) {  // the winner drops out
        const int found = key_position(block_best<THREADS>(is_in ? rank_key(values[at], i) : NOBODY, turn % 2));
        is_in = is_in && found != i;
        if (i == 0) out[blockIdx.x * 3 + turn] = found;
    }
}
"""


@pytest.mark.parametrize(
    ("dim", "width", "kind"),
    [
        (1, 1, "float32"),
        (31, 1, "float16"),
        (33, 1, "float32"),
        (30, 2, "float32"),
        (64, 4, "float32"),
        (36, 4, "float16"),
        (40, 8, "float16"),
    ],
)
def test_inner_products_have_the_bits_of_the_reference(dim: int, width: int, kind: str) -> None:
    rng = np.random.default_rng(dim)
    left, right = rng.normal(size=(2, 37, dim)).astype(kind)
    item = {"float32": "float", "float16": "__half"}[kind]
    kernel = build(DOT, "dots", (f"-DDIM={dim}", f"-DWIDTH={width}", f"-DITEM={item}", "-DTHREADS=64"))
    out = np.zeros(37, np.float32)
    launch(kernel, (-(-37 * 16 // width // 64),), (64,), (left, right, np.int32(37), out), order=3)
    assert np.array_equal(out.view(np.int32), numerics.lane_dot(left, right).view(np.int32))


def test_logarithms_have_the_bits_of_the_reference() -> None:
    largest = np.finfo(np.float32).max
    edges = np.array([1e-6, 1, 2, 0.5, 2**0.5, 0.5**0.5, largest, np.finfo(np.float32).tiny], np.float32)
    x = np.concatenate([edges, np.exp(np.random.default_rng(0).uniform(-80, 80, 4088)).astype(np.float32)])
    out = np.zeros_like(x)
    launch(build(LOG, "logarithm"), (64,), (64,), (x, out))
    assert np.array_equal(out.view(np.int32), numerics.log(x).view(np.int32))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("threads", [32, 96])
def test_the_best_of_a_block_is_the_largest_value_and_then_the_lowest_position(threads: int, order: int) -> None:
    rng = np.random.default_rng(threads)
    values = rng.choice(np.array([-np.inf, -1, -0.0, 0.0, 0.5], np.float32), size=(5, threads))
    values[0], values[1] = -np.inf, np.where(np.arange(threads) % 2, 0.0, -0.0)
    takes_part = rng.random((5, threads)) < 0.5
    takes_part[4] = np.arange(threads) == 7
    out = np.zeros((5, 3), np.int32)
    launch(build(BEST, "best", (f"-DTHREADS={threads}",)), (5,), (threads,), (values, takes_part, out), order=order)
    expected = np.full((5, 3), -1)
    for b in range(5):
        left = np.flatnonzero(takes_part[b])
        best = left[np.argsort(-values[b, left], kind="stable")][:3]
        expected[b, : len(best)] = best
    assert np.array_equal(out, expected)
