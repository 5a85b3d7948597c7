// Scores of proposed items, gathered and added up in one pass over memory: the inner product of each request's user with
// each of its N rows, plus what the row already scores. score_pool/reference.py with its bits. 16 / WIDTH neighbouring
// threads share a row, so that a warp reads it in whole sectors and nothing in between goes to memory.
//
// Given by -D: DIM (columns), WIDTH (columns that one load takes), THREADS. Grid: (B, slices of N).
#include "lanes.cuh"

constexpr int LANES = SUMS / WIDTH;       // threads that share a row
constexpr int ROWS = THREADS / LANES;     // that a block scores
constexpr float LARGEST = 3.40282347e38f; // of all finite float32

// vectors [M, DIM], rows `stride` elements apart; rows [B, N], linear [B, N], users [B, DIM] -> tower [B, N], total [B, N].
// Rows outside of the table count as missing: 0 and -inf. A total that is not finite is -inf.
extern "C" __global__ void __launch_bounds__(THREADS)
    score_pool(const float* __restrict__ vectors, int item_count, long long stride, const int* __restrict__ rows, int count,
               const float* __restrict__ users, const float* __restrict__ linear, float* __restrict__ tower,
               float* __restrict__ total) {
    const int n = blockIdx.y * ROWS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const size_t place = size_t(blockIdx.x) * count + min(n, count - 1);
    const int row = rows[place];
    const bool is_there = n < count && row >= 0 && row < item_count;
    const float* user = users + size_t(blockIdx.x) * DIM;
    const float product = lane_dot<DIM, WIDTH>(vectors + size_t(is_there ? row : 0) * stride, user, lane, is_there);
    if (lane != 0 || n >= count) return;
    const float score = __fadd_rn(product, linear[place]);
    tower[place] = is_there ? product : 0.f;
    total[place] = is_there && fabsf(score) <= LARGEST ? score : __int_as_float(0xff800000);  // -inf
}
