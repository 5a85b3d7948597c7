// What the CUDA kernels share: inner products in the one order of numerics.lane_dot, its logarithm, and the best of a
// block. Every product and sum is rounded by itself (__fmul_rn, __fadd_rn): a fused multiply-add has other bits.
#pragma once
#include <cuda_fp16.h>

constexpr unsigned FULL = 0xffffffffu;  // all lanes of a warp
constexpr int SUMS = 16;                // partial sums of an inner product
constexpr unsigned long long NOBODY = 0;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(signed char x) { return float(x); }

// T of a float that it can hold: rounding and clipping are the caller's.
template <class T> __device__ __forceinline__ T from_float(float x) { return T(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

// width neighbouring elements that one instruction loads (at most 16 bytes, and aligned to their size).
template <class T, int width> struct alignas(sizeof(T) * width) Chunk {
    T at[width];
};

template <int width, class T> __device__ __forceinline__ Chunk<T, width> load(const T* address) {
    return *reinterpret_cast<const Chunk<T, width>*>(address);
}

// The 16 partial sums, width of them in each of 16 / width neighbouring threads: the total, in all of these threads.
// Partners add the same two numbers, and a + b = b + a, so a butterfly has the bits of adding halves one by one.
template <int width> __device__ __forceinline__ float lane_total(float (&sums)[width]) {
#pragma unroll
    for (int half = SUMS / 2; half > 0; half /= 2) {
#pragma unroll
        for (int i = 0; i < (half < width ? half : width); i++) {
            float partner = half < width ? sums[(i + half) % width] : __shfl_xor_sync(FULL, sums[i], half / width);
            sums[i] = __fadd_rn(sums[i], partner);
        }
    }
    return sums[0];
}

// Inner product of two rows of dim columns, shared by 16 / width neighbouring threads, of which this is number `lane`.
// All threads of the warp must call it; `reads` tells whether the rows of this thread may be read.
template <int dim, int width, class T>
__device__ __forceinline__ float lane_dot(const T* left, const T* right, int lane, bool reads) {
    float sums[width] = {};
    if (reads) {
#pragma unroll 2
        for (int column = lane * width; column < dim; column += SUMS) {
            const Chunk<T, width> a = load<width>(left + column), b = load<width>(right + column);
#pragma unroll
            for (int i = 0; i < width; i++) {
                sums[i] = __fadd_rn(sums[i], __fmul_rn(to_float(a.at[i]), to_float(b.at[i])));
            }
        }
    }
    return lane_total(sums);
}

// numerics.log: natural logarithm of positive normal numbers.
__device__ __forceinline__ float lane_log(float x) {
    int bits = __float_as_int(x), exponent = (bits >> 23) - 127;
    float mantissa = __int_as_float((bits & 0x007fffff) | 0x3f800000);
    if (mantissa >= 1.4142135f) {
        mantissa = __fmul_rn(mantissa, 0.5f);
        exponent += 1;
    }
    float s = __fdiv_rn(__fsub_rn(mantissa, 1.f), __fadd_rn(mantissa, 1.f)), square = __fmul_rn(s, s);
    float series = float(1. / 9);
    series = __fadd_rn(__fmul_rn(series, square), float(1. / 7));
    series = __fadd_rn(__fmul_rn(series, square), float(1. / 5));
    series = __fadd_rn(__fmul_rn(series, square), float(1. / 3));
    series = __fadd_rn(__fmul_rn(series, square), 1.f);
    return __fadd_rn(__fmul_rn(float(exponent), 0.6931472f), __fmul_rn(__fadd_rn(s, s), series));
}

// A number for (value, position) that is larger the better the candidate: a larger value first, then a lower position.
// It is never NOBODY. -0 counts as 0; NaN must not come here.
__device__ __forceinline__ unsigned long long rank_key(float value, int position) {
    unsigned bits = __float_as_uint(__fadd_rn(value, 0.f));
    unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)ordered << 32 | ~unsigned(position);
}

__device__ __forceinline__ int key_position(unsigned long long key) { return key == NOBODY ? -1 : int(~unsigned(key)); }

__device__ __forceinline__ unsigned long long warp_best(unsigned long long key) {
    unsigned value = __reduce_max_sync(FULL, unsigned(key >> 32));
    unsigned position = __reduce_max_sync(FULL, key >> 32 == value ? unsigned(key) : 0u);
    return (unsigned long long)value << 32 | position;
}

// The best key of the block, known to all its threads. Calls must alternate `turn` 0 and 1: a fast warp may write its
// next best while a slow one still reads this one, so there are two rows of them, and one barrier is enough.
template <int threads> __device__ __forceinline__ unsigned long long block_best(unsigned long long key, int turn) {
    static_assert(threads % 32 == 0 && threads <= 1024, "whole warps");
    __shared__ unsigned long long bests[2][threads / 32];
    key = warp_best(key);
    if (threadIdx.x % 32 == 0) bests[turn][threadIdx.x / 32] = key;
    __syncthreads();
    int lane = threadIdx.x % 32;
    return warp_best(lane < threads / 32 ? bests[turn][lane] : NOBODY);
}
