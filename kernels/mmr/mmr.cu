// Greedy maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998), one block per request; mmr/reference.py with
// its bits. Each round compares every candidate with the last pick only, and keeps the highest similarity so far:
// O(K·N·D), no N×N matrix. A round costs one barrier, that of block_best.
#include "greedy.cuh"

// items [M, DIM], rows [B, N], relevance [B, N], trade_off [B] (λ), groups [M] or null -> picks [B, K]: positions, -1
// when there are no more. Refused values (greedy.cuh) are noted in `refused` [3], and their requests get no picks.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
mmr(const ITEM* __restrict__ items, int M, const int* __restrict__ rows, const float* __restrict__ relevance, int N,
    const float* __restrict__ trade_off, const int* __restrict__ groups, int max_per_group, int* __restrict__ picks,
    int K, int* __restrict__ refused) {
    extern __shared__ Candidate candidates[];
    const int lane = threadIdx.x % LANES;
    const float lambda = trade_off[blockIdx.x];
    const bool is_valid = fetch(candidates, N, rows, M, relevance, lambda, groups, max_per_group, refused);

    int last = -1, found = 0;
    while (is_valid && found < K) {
        unsigned long long best = NOBODY;
        for (int first = 0; first < N; first += AT_ONCE) {  // the same for all threads of a warp, since they exchange
            const int n = first + threadIdx.x / LANES;
            bool is_left = n < N && lane == 0 && remains(candidates, n, last);
            is_left = __shfl_sync(FULL, is_left, 0, LANES);
            float closest = 0.f;
            if (last >= 0) {
                const ITEM* picked = items + size_t(candidates[last].row) * DIM;
                const ITEM* candidate = items + size_t(is_left ? candidates[n].row : 0) * DIM;
                const float similarity = lane_dot<DIM, WIDTH>(candidate, picked, lane, is_left);
                const float before = found > 1 && is_left && lane == 0 ? candidates[n].state : -LARGEST;
                closest = fminf(similarity > before ? similarity : before, LARGEST);
            }
            if (is_left && lane == 0) {
                candidates[n].state = closest;
                const float worth = __fmul_rn(lambda, candidates[n].relevance);
                const float value = __fsub_rn(worth, __fmul_rn(__fsub_rn(1.f, lambda), closest));
                best = max(best, rank_key(value, n));
            }
        }
        last = key_position(block_best<THREADS>(best, found % 2));
        if (last < 0) break;
        if (threadIdx.x == 0) picks[size_t(blockIdx.x) * K + found] = last;
        found++;
    }
    for (int slot = found + threadIdx.x; slot < K; slot += THREADS) picks[size_t(blockIdx.x) * K + slot] = -1;
}
