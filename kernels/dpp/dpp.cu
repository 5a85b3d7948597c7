// Greedy MAP inference of a determinantal point process (Chen, Zhang & Zhou, NeurIPS 2018), one block per request;
// dpp/reference.py with its bits. Each pick adds one row to the Cholesky factor of the picked items' Gram matrix, so a
// round costs O(N·(D + K)) and one barrier. The factor may be too large for shared memory, so it lies in `factor`.
#include "greedy.cuh"

constexpr float FLOOR = 1e-6f;  // of a residual: below it a candidate lies in the span of the picks and adds nothing

// As mmr.cu; factor [B, min(K, N), N] is space to work in. The state of a candidate is its residual: its squared
// distance from the span of what is picked.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
dpp(const ITEM* __restrict__ items, int M, const int* __restrict__ rows, const float* __restrict__ relevance, int N,
    const float* __restrict__ trade_off, const int* __restrict__ groups, int max_per_group, int* __restrict__ picks,
    int K, int* __restrict__ refused, float* factor) {
    extern __shared__ Candidate candidates[];
    const int lane = threadIdx.x % LANES;
    const float lambda = trade_off[blockIdx.x];
    const bool is_valid = fetch(candidates, N, rows, M, relevance, lambda, groups, max_per_group, refused);
    factor += size_t(blockIdx.x) * min(K, N) * N;

    int last = -1, found = 0, rank = 0;  // rank: rows of the factor; a pick whose residual is below the floor adds none
    while (is_valid && found < K) {
        const bool grows = last >= 0 && candidates[last].state > FLOOR;
        unsigned long long best = NOBODY;
        for (int first = 0; first < N; first += AT_ONCE) {  // the same for all threads of a warp, since they exchange
            const int n = first + threadIdx.x / LANES;
            bool is_left = n < N && lane == 0 && remains(candidates, n, last);
            is_left = __shfl_sync(FULL, is_left, 0, LANES);
            const ITEM* candidate = items + size_t(is_left ? candidates[n].row : 0) * DIM;
            const ITEM* other = last < 0 ? candidate : items + size_t(candidates[last].row) * DIM;
            float similarity = 0.f;
            if (grows || last < 0) similarity = lane_dot<DIM, WIDTH>(candidate, other, lane, is_left);
            if (!is_left || lane != 0) continue;
            float residual = last < 0 ? similarity : candidates[n].state;
            if (grows) {
                float explained = 0.f;
#pragma unroll 2  // more would not fit into the registers of six blocks
                for (int before = 0; before < rank; before++) {
                    const float* row = factor + size_t(before) * N;
                    explained = __fadd_rn(explained, __fmul_rn(row[last], row[n]));
                }
                const float entry = __fdiv_rn(__fsub_rn(similarity, explained), __fsqrt_rn(candidates[last].state));
                factor[size_t(rank) * N + n] = entry;
                residual = __fsub_rn(residual, __fmul_rn(entry, entry));
            }
            candidates[n].state = residual;
            const float bounded = residual > FLOOR ? fminf(residual, LARGEST) : FLOOR;
            const float worth = __fmul_rn(lambda, candidates[n].relevance);
            best = max(best, rank_key(__fadd_rn(worth, __fmul_rn(__fsub_rn(1.f, lambda), lane_log(bounded))), n));
        }
        rank += grows;
        last = key_position(block_best<THREADS>(best, found % 2));
        if (last < 0) break;
        if (threadIdx.x == 0) picks[size_t(blockIdx.x) * K + found] = last;
        found++;
    }
    for (int slot = found + threadIdx.x; slot < K; slot += THREADS) picks[size_t(blockIdx.x) * K + slot] = -1;
}
