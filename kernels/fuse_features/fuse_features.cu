// The student's input in one pass over memory: gather the item rows, multiply by the user, scale, round, and add up the
// linear part. A block serves TILE candidates of one request: what depends on the request alone is computed once, into
// shared memory; four threads share a candidate, each with four adjacent columns of every sixteen; and the rows of the
// tile, adjacent in the output, leave together in 16-byte stores, whatever their length.
//
// Given by -D: ITEM and FEATURE (types), USER_WIDTH, ITEM_WIDTH, CHANNELS, SIDE (columns), TILE (candidates, a
// multiple of 8), VECTOR (1: rows allow loads of four columns). Grid: (B, tiles of N).
// Compiled with -fmad=false: every product and sum is rounded by itself, as in reference.py.
#include "lanes.cuh"

constexpr int COLUMNS = ITEM_WIDTH + CHANNELS + SIDE;
constexpr int THREADS = 4 * TILE;
constexpr int STEPS = (ITEM_WIDTH + SUMS - 1) / SUMS;
constexpr int FIRST_SIDE = ITEM_WIDTH + CHANNELS;
constexpr int UNROLL = VECTOR ? 16 / sizeof(ITEM) : 2;  // steps whose loads are in flight together: 16 registers' worth

struct Encoding {
    float low, high, zero;
};

// What the candidates of one request share.
struct Request {
    alignas(16) float scale[FIRST_SIDE + 4];  // user · multiplier
    alignas(16) float offset[FIRST_SIDE + 4];
    alignas(16) float slope[FIRST_SIDE + 4];  // user · weight
    FEATURE side[SIDE + 1];                   // encoded
    float base;                               // bias, and the side columns' share of the linear part
};

#if __CUDA_ARCH__ == 900
constexpr int RESIDENT = 2048, MEMORY = 228 * 1024;  // threads and bytes of shared memory of a multiprocessor
#elif __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 1000
constexpr int RESIDENT = 2048, MEMORY = 164 * 1024;
#else
constexpr int RESIDENT = 1536, MEMORY = 100 * 1024;
#endif
// So that registers allow three quarters of the threads, unless shared memory allows less anyway.
constexpr int BLOCK_BYTES = sizeof(Request) + sizeof(FEATURE) * (TILE * COLUMNS + 16) + 1024;
constexpr int FITTING = MEMORY / BLOCK_BYTES, WANTED = RESIDENT * 3 / 4 / THREADS;
constexpr int BLOCKS = WANTED < FITTING ? WANTED : FITTING;

// x as T, integers rounded half to even by an addition that leaves no room for fractions: far cheaper than a conversion.
template <class T> __device__ __forceinline__ T rounded(float x) { return T(__float_as_int(x + 12582912.f)); }
template <> __device__ __forceinline__ float rounded<float>(float x) { return x; }
template <> __device__ __forceinline__ __half rounded<__half>(float x) { return __float2half_rn(x); }

// Clipping first gives the same, because the limits of integers are integers. NaN becomes the lower limit.
__device__ __forceinline__ FEATURE encode(float x, const Encoding& to) {
    return rounded<FEATURE>(fminf(fmaxf(x, to.low), to.high));
}

// Threads take the candidates' columns from the front and the side columns from the back, so that warps which have none
// of the former do the latter at the same time.
__device__ void prepare(Request& request, const float* user, const float* side, const float* multiplier,
                        const float* offset, const float* weight, float bias, const Encoding& to) {
#pragma unroll 1
    for (int g = threadIdx.x; g < FIRST_SIDE; g += THREADS) {
        const float factor = g < USER_WIDTH ? user[g] : 1.f;
        request.scale[g] = factor * multiplier[g];
        request.offset[g] = offset[g];
        request.slope[g] = factor * weight[g];
    }
    const int back = THREADS - 1 - int(threadIdx.x);
#pragma unroll 1
    for (int s = back; s < SIDE; s += THREADS) {
        request.side[s] = encode(side[s] * multiplier[FIRST_SIDE + s] + offset[FIRST_SIDE + s], to);
    }
    if (back == 0) {
        float base = bias;
        for (int s = 0; s < SIDE; s++) base += side[s] * weight[FIRST_SIDE + s];
        request.base = base;
    }
}

__device__ __forceinline__ Chunk<ITEM, 4> four_columns(const ITEM* row, int column) {
    if (VECTOR) return load<4>(row + column);
    Chunk<ITEM, 4> four;
    for (int i = 0; i < 4; i++) four.at[i] = row[min(column + i, ITEM_WIDTH - 1)];
    return four;
}

// This thread's columns of the item into `features`, and their products with the user's weights onto `sums`.
__device__ __forceinline__ void fuse_item(const ITEM* row, int quarter, const Request& request, const Encoding& to,
                                          FEATURE* features, float (&sums)[4]) {
#pragma unroll UNROLL
    for (int step = 0; step < STEPS; step++) {
        const int column = SUMS * step + 4 * quarter;
        if (ITEM_WIDTH % SUMS != 0 && column >= ITEM_WIDTH) break;
        const Chunk<ITEM, 4> item = four_columns(row, column);
        const Chunk<float, 4> scale = load<4>(request.scale + column), offset = load<4>(request.offset + column);
        const Chunk<float, 4> slope = load<4>(request.slope + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (ITEM_WIDTH % 4 != 0 && column + i >= ITEM_WIDTH) break;
            const float x = to_float(item.at[i]);
            features[column + i] = encode(x * scale.at[i] + offset.at[i], to);
            sums[i] += x * slope.at[i];
        }
    }
}

// Bytes from shared to global memory, where `from` and `to` are equally far from a multiple of 16.
__device__ void copy_out(char* to, const char* from, int bytes) {
    const int head = min(bytes, int(-reinterpret_cast<size_t>(to) & 15));
    const int whole = (bytes - head) / 16;
#pragma unroll 1
    for (int i = threadIdx.x; i < whole; i += THREADS) {
        reinterpret_cast<uint4*>(to + head)[i] = reinterpret_cast<const uint4*>(from + head)[i];
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < bytes - 16 * whole; i += THREADS) {  // before and after the whole sixteens
        const int at = i < head ? i : i + 16 * whole;
        to[at] = from[at];
    }
}

// items [M, ITEM_WIDTH], rows [B, N], users [B, USER_WIDTH], channels [B, N, CHANNELS], side [B, SIDE], then the constants
// [COLUMNS] -> features [B, N, COLUMNS], linear [B, N]. Rows of -1 are missing; others outside of the table count as
// missing too, and the lowest flat index of them comes into `refused`.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    fuse_features(const ITEM* __restrict__ items, int item_count, const int* __restrict__ rows, int count,
                  const float* __restrict__ users, const float* __restrict__ channels, const float* __restrict__ side,
                  const float* __restrict__ multiplier, const float* __restrict__ offset,
                  const float* __restrict__ weight, float bias, float low, float high, float zero,
                  FEATURE* __restrict__ features, float* __restrict__ linear, int* __restrict__ refused) {
    __shared__ Request request;
    alignas(16) __shared__ FEATURE tile[TILE * COLUMNS + 16 / sizeof(FEATURE)];
    const Encoding to{low, high, zero};
    const int first = blockIdx.y * TILE, candidates = min(TILE, count - first);
    const int begin = blockIdx.x * count + first;  // of the tile, among all candidates
    const int n = threadIdx.x / 4, quarter = threadIdx.x % 4;
    int row = n < candidates ? rows[begin + n] : -1;
    float channel[CHANNELS + 1];
    for (int c = 0; c < CHANNELS; c++) channel[c] = n < candidates ? channels[size_t(begin + n) * CHANNELS + c] : 0.f;
    prepare(request, users + size_t(blockIdx.x) * USER_WIDTH, side + size_t(blockIdx.x) * SIDE, multiplier, offset,
            weight, bias, to);
    if (row < -1 || row >= item_count) {
        atomicMin(refused, begin + n);
        row = -1;
    }
    __syncthreads();

    char* target = reinterpret_cast<char*>(features + size_t(begin) * COLUMNS);
    char* copy = reinterpret_cast<char*>(tile) + (reinterpret_cast<size_t>(target) & 15);
    FEATURE* mine = reinterpret_cast<FEATURE*>(copy) + n * COLUMNS;
    float sums[4] = {}, rest = 0.f;
    if (row >= 0) {
        fuse_item(items + size_t(row) * ITEM_WIDTH, quarter, request, to, mine, sums);
        rest = request.base;
        for (int c = 0; c < CHANNELS; c++) {
            const int g = ITEM_WIDTH + c;
            rest += channel[c] * request.slope[g];
            if (c % 4 == quarter) mine[g] = encode(channel[c] * request.scale[g] + request.offset[g], to);
        }
#pragma unroll 4
        for (int s = quarter; s < SIDE; s += 4) mine[FIRST_SIDE + s] = request.side[s];
    } else if (n < candidates) {
#pragma unroll 1
        for (int g = quarter; g < COLUMNS; g += 4) mine[g] = rounded<FEATURE>(to.zero);
    }
    const float total = lane_total(sums);
    if (quarter == 0 && n < candidates) linear[begin + n] = row >= 0 ? total + rest : __int_as_float(0xff800000);  // -inf
    __syncthreads();
    copy_out(target, copy, candidates * COLUMNS * int(sizeof(FEATURE)));
}
