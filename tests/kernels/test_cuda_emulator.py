"""The emulator that runs CUDA kernels on the CPU computes what a GPU would, and finds out kernels that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda.emulator import KernelError, build, launch, mutants

ORDERS = range(6)

REVERSE = """
extern "C" __global__ void reverse(const float* x, int count, float* y, int* largest) {
    extern __shared__ float values[];
    __shared__ float sums[2];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    values[threadIdx.x] = i < count ? x[i] : 0.f;
    __syncthreads();
    float value = values[blockDim.x - 1 - threadIdx.x], sum = value;
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (i < count) y[i] = value + sums[0] - sums[1];
    atomicMax(largest, int(value));
}
"""


def _reverse(source: str, order: int, *, overruns: bool = False) -> tuple[np.ndarray, int]:
    x, y, largest = np.arange(128, dtype=np.float32), np.zeros(128, np.float32), np.zeros(1, np.int32)
    kernel = build(source, "reverse", overruns=overruns)
    launch(kernel, (2,), (64,), (x, np.int32(128), y, largest), shared_bytes=256, order=order)
    return y, int(largest[0])


def _run(body: str, threads: int = 32, blocks: int = 1, **settings: Any) -> np.ndarray:
    """What `body` stores into `int out[threads * blocks]`, at `i` for each thread."""
    source = f'extern "C" __global__ void run(int* out) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; {body} }}'
    out = np.full(threads * blocks, -7, np.int32)
    launch(build(source, "run", overruns=settings.pop("overruns", False)), (blocks,), (threads,), (out,), **settings)
    return out


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_kernel_is_right_in_every_order(order: int) -> None:
    y, largest = _reverse(REVERSE, order)
    x = np.arange(128).reshape(2, 64)
    expected = x[:, ::-1] + x[:, 32:].sum(1, keepdims=True) - x[:, :32].sum(1, keepdims=True)
    assert np.array_equal(y, expected.ravel())
    assert largest == 127


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("barrier", [0, 1])
def test_a_missing_barrier_is_a_race_in_every_order(barrier: int, order: int) -> None:
    _, mutant = list(mutants(REVERSE, r"__syncthreads\(\);", ""))[barrier]
    with pytest.raises(KernelError, match=r"race: thread \d+ (reads|writes) byte \d+ of shared memory"):
        _reverse(mutant, order)


@pytest.mark.parametrize("barrier", [0, 1])
def test_a_missing_barrier_gives_a_wrong_result_in_some_order(barrier: int) -> None:
    _, mutant = list(mutants(REVERSE, r"__syncthreads\(\);", ""))[barrier]
    right, _ = _reverse(REVERSE, 0)
    assert any(not np.array_equal(_reverse(mutant, order, overruns=True)[0], right) for order in ORDERS)


@pytest.mark.parametrize("body", ["if (i < 5) __syncthreads();", "if (i < 5) return; __syncthreads();"])
def test_a_barrier_that_some_threads_miss_is_reported(body: str) -> None:
    with pytest.raises(KernelError, match="divergence"):
        _run(f"{body}\nout[i] = 0;", threads=64)


def test_threads_that_wait_at_different_barriers_are_reported() -> None:
    with pytest.raises(KernelError, match=r"divergence: thread .* at line 2, they wait at line 1"):
        _run("if (i == 0) { __syncthreads(); } else {\n __syncthreads(); }", threads=64)


def test_blocks_that_write_one_address_race() -> None:
    with pytest.raises(KernelError, match=r"race: .* of argument 0"):
        _run("out[threadIdx.x] = i;", blocks=2)


def test_lanes_that_share_memory_need_their_own_barrier() -> None:
    body = "__shared__ int s[32]; s[i] = i; {} out[i] = s[i ^ 1];"
    assert np.array_equal(_run(body.replace("{}", "__syncwarp();")), np.arange(32) ^ 1)
    with pytest.raises(KernelError, match="race"):
        _run(body.replace("{}", ""))


def test_races_are_found_in_functions_of_every_kind() -> None:
    source = """
    template <int n> __device__ __forceinline__ int swapped(int i) { __shared__ int s[n]; s[i] = i; return s[i ^ 1]; }
    extern "C" __global__ void run(int* out) { out[threadIdx.x] = swapped<32>(threadIdx.x); }"""
    with pytest.raises(KernelError, match="race"):
        launch(build(source, "run"), (1,), (32,), (np.zeros(32, np.int32),))


@pytest.mark.parametrize("declaration", ["__shared__ int a[2], b[2];", "__shared__ struct { int a; } s;"])
def test_declarations_that_the_emulator_would_misread_are_refused(declaration: str) -> None:
    with pytest.raises(ValueError, match="not understood, declare one variable"):
        build(declaration, "refused")


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("__shfl_xor_sync(~0u, i, 4)", lambda i: i ^ 4),
        ("__shfl_down_sync(~0u, i, 3)", lambda i: np.where(i % 32 < 29, i + 3, i)),
        ("__shfl_down_sync(~0u, i, 3, 8)", lambda i: np.where(i % 8 < 5, i + 3, i)),
        ("__shfl_up_sync(~0u, i, 2, 16)", lambda i: np.where(i % 16 >= 2, i - 2, i)),
        ("__shfl_sync(~0u, i, 5)", lambda i: i // 32 * 32 + 5),
        ("__shfl_sync(~0u, i, 1, 4)", lambda i: i // 4 * 4 + 1),
        ("__popc(__ballot_sync(~0u, i % 3 == 0))", lambda i: np.repeat((i % 3 == 0).reshape(2, 32).sum(1), 32)),
        ("__any_sync(~0u, i == 40)", lambda i: i >= 32),
        ("__all_sync(~0u, i < 40)", lambda i: i < 32),
        ("int(__reduce_max_sync(~0u, unsigned(i * 7 % 64)))", lambda i: (i * 7 % 64).reshape(2, 32).max(1).repeat(32)),
        ("__syncthreads_count(i % 2)", lambda i: 0 * i + 32),
        ("__syncthreads_or(i == 63)", lambda i: 0 * i + 1),
        ("__syncthreads_and(i < 63)", lambda i: 0 * i),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)
def test_what_threads_exchange(expression: str, expected: Any, order: int) -> None:
    assert np.array_equal(_run(f"out[i] = {expression};", threads=64, order=order), expected(np.arange(64)))


def test_atomics_of_all_blocks_add_up() -> None:
    body = "__shared__ int least; if (threadIdx.x == 0) least = 1 << 20; __syncthreads(); atomicMin(&least, 3 + i);"
    assert _run(f"{body} __syncthreads(); out[i] = least;", threads=40, blocks=2).tolist() == [3] * 40 + [43] * 40


def test_shared_memory_holds_junk_at_first_in_every_block() -> None:
    assert (_run("__shared__ int s[32]; out[i] = s[threadIdx.x]; s[threadIdx.x] = 0;", blocks=3) == 0x7F7F7F7F).all()


@pytest.mark.parametrize(
    "body",
    [
        "extern __shared__ int s[]; s[i + 1] = 0;",
        "__shared__ int s[32]; s[i] = 0; out[i] = s[i + 1];",
        "out[i + 1] = 0;",
    ],
    ids=["dynamic", "static", "argument"],
)
def test_one_element_past_the_end_is_found(body: str) -> None:
    with pytest.raises(KernelError, match="buffer-overflow"):
        _run(body, overruns=True, shared_bytes=128)


@pytest.mark.parametrize("body", ["for (;;) __syncthreads();", "for (volatile int forever = 1; forever;) {}"])
def test_a_kernel_that_does_not_end_is_stopped(body: str) -> None:
    with pytest.raises(KernelError, match="no end after"):
        _run(body, seconds=0.3)


def test_a_kernel_that_crashes_is_reported() -> None:
    with pytest.raises(KernelError, match="ended by signal 11"):
        _run("*(volatile int*)8 = 1;")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (7, TypeError, "7 has no width"),
        (None, TypeError, "None has no width"),
        (np.int64(7), KernelError, "argument 1 has type l, the kernel takes i"),
        (np.float32(7), KernelError, "argument 1 has type f, the kernel takes i"),
        (np.zeros(1, np.int32), KernelError, "argument 1 has another size"),
    ],
)
def test_arguments_must_have_the_types_of_the_kernel(wrong: Any, error: type[Exception], message: str) -> None:
    x, largest = np.zeros(128, np.float32), np.zeros(1, np.int32)
    with pytest.raises(error, match=message):
        launch(build(REVERSE, "reverse"), (2,), (64,), (x, wrong, x.copy(), largest), shared_bytes=256)


def test_a_zero_as_wide_as_a_pointer_is_a_null_pointer() -> None:
    source = 'extern "C" __global__ void test(const float* missing, int* out) { out[0] = missing == nullptr; }'
    out = np.zeros(1, np.int32)
    launch(build(source, "test"), (1,), (1,), (np.uintp(0), out))
    assert out[0] == 1


def test_half_precision_rounds_as_numpy_does() -> None:
    source = """extern "C" __global__ void convert(const float* x, const __half* h, __half* rounded, float* widened) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        rounded[i] = __float2half_rn(x[i]);
        widened[i] = __half2float(h[i]);
    }"""
    h = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore", over="ignore"):
        between = np.nextafter(h, np.float16(np.inf)).astype(np.float32) / 2 + h.astype(np.float32) / 2  # ties
        expected = between.astype(np.float16)
    rounded, widened = np.zeros_like(h), np.zeros(1 << 16, np.float32)
    launch(build(source, "convert"), (1024,), (64,), (between, h, rounded, widened))
    assert np.array_equal(widened, h.astype(np.float32), equal_nan=True)
    assert np.array_equal(rounded, expected, equal_nan=True)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"g\+\+ is not installed.*apt install g\+\+"):
        build("// never compiled before", "missing")
