// What the greedy selections (mmr.cu, dpp.cu) share: one block per request keeps the state of its N candidates in
// shared memory, 16 / WIDTH neighbouring threads work on one candidate, and only the first of them touches its state.
//
// Compile-time constants: ITEM (the table's type), DIM, WIDTH (columns that one load takes), THREADS.
#pragma once
#include "lanes.cuh"

constexpr int LANES = SUMS / WIDTH;           // threads that share a candidate
constexpr int AT_ONCE = THREADS / LANES;      // candidates that the block works on at once
#if __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000
constexpr int RESIDENT = 2048;                // threads that a multiprocessor can hold
#else
constexpr int RESIDENT = 1536;
#endif
constexpr int BLOCKS = (RESIDENT * 3 / 4 + THREADS - 1) / THREADS;  // so that registers allow three quarters of them
constexpr float LARGEST = 3.40282347e38f;     // of all finite float32
enum Refused { ROW, RELEVANCE, TRADE_OFF };   // what `refused` counts, in this order

// Five words: an odd number, so that neighbours lie in different banks.
struct Candidate {
    int row;    // of the table, -1: missing
    int group;  // -1: in none
    int room;   // how many more of its group may be picked; at most 0: this candidate cannot be picked any more
    float relevance;
    float state;  // what the method keeps of it
};

// Fetches the request's candidates, looking at each value before anything depends on it. False, in all threads, when
// one is refused; `refused` keeps the lowest flat index of each kind.
__device__ __forceinline__ bool fetch(Candidate* candidates, int N, const int* rows, int M, const float* relevance,
                                      float trade_off, const int* groups, int max_per_group, int* refused) {
    bool is_bad = !(trade_off >= 0.f && trade_off <= 1.f);
    if (is_bad && threadIdx.x == 0) atomicMin(&refused[TRADE_OFF], int(blockIdx.x));
    for (int n = threadIdx.x; n < N; n += THREADS) {
        int flat = blockIdx.x * N + n, row = rows[flat];
        float value = relevance[flat];
        bool is_bad_row = row < -1 || row >= M, is_bad_value = row >= 0 && !(fabsf(value) <= LARGEST);
        if (is_bad_row) atomicMin(&refused[ROW], flat);
        if (is_bad_value) atomicMin(&refused[RELEVANCE], flat);
        is_bad |= is_bad_row | is_bad_value;
        const int group = groups && row >= 0 && row < M ? groups[row] : -1;
        candidates[n] = {row, group, row < 0 ? 0 : groups ? max_per_group : 1, value, 0.f};
    }
    return !__syncthreads_or(is_bad);
}

// Takes note that `last` was picked; returns whether candidate n can still be. For the first thread of a candidate.
__device__ __forceinline__ bool remains(Candidate* candidates, int n, int last) {
    int room = candidates[n].room;
    if (n == last) room = 0;
    if (last >= 0 && candidates[n].group >= 0 && candidates[n].group == candidates[last].group) room--;
    candidates[n].room = room;
    return room > 0;
}
