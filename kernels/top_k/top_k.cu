// The K best of N values per request, by counting: the position of a value in the slate is how many values beat it.
// A block ranks SLICE candidates of one request, PARTS threads to a candidate, against all N keys in shared memory; no
// block waits for another, and a request spreads over many multiprocessors. Counts do not depend on their order.
//
// Given by -D: CAPACITY (N at most, a multiple of 4), PARTS (a power of two up to 32), SLICE. Grid: (B, slices of N).

constexpr int THREADS = SLICE * PARTS;
constexpr int STRETCH = 1024;          // keys after which to look whether enough of them win already
constexpr unsigned ALL = 0xffffffffu;  // lanes of a warp

// How many of the keys [begin, end) beat `key`; of equal keys the earlier one wins, so `earlier` ones beat it too.
// Both ends are multiples of 4, and `part` of PARTS threads takes its share.
template <bool earlier>
__device__ int beaten_by(const float* keys, int begin, int end, int part, float key) {
    int count = 0;
    for (int j = begin + 4 * part; j < end; j += 4 * PARTS) {
        const float4 four = *reinterpret_cast<const float4*>(keys + j);
        count += earlier ? four.x >= key : four.x > key;
        count += earlier ? four.y >= key : four.y > key;
        count += earlier ? four.z >= key : four.z > key;
        count += earlier ? four.w >= key : four.w > key;
    }
    return count;
}

// The sum over the threads of a candidate.
__device__ int over_parts(int count) {
    for (int distance = PARTS / 2; distance > 0; distance /= 2) {
        count += __shfl_xor_sync(ALL, count, distance);
    }
    return count;
}

// values [B, N], rows `stride` elements apart -> best [B, K]: positions, best first, -1 beyond N.
extern "C" __global__ void __launch_bounds__(THREADS)
    top_k(const float* __restrict__ values, long long stride, int count, int k, int* __restrict__ best) {
    alignas(16) __shared__ float keys[CAPACITY];
    values += blockIdx.x * stride;
    best += size_t(blockIdx.x) * k;
    const float lowest = __int_as_float(0xff800000);  // -inf
    const int padded = (count + 3) / 4 * 4;
    for (int j = threadIdx.x; j < padded; j += THREADS) {
        const float value = j < count ? values[j] : lowest;
        keys[j] = value == value ? value : lowest;  // NaN counts as -inf
    }
    __syncthreads();

    const int first = blockIdx.y * SLICE, last = min(first + SLICE, padded);
    const int position = first + threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const float key = keys[min(position, padded - 1)];
    int beaten = 0;
    for (int j = first + part; j < last; j += PARTS) {
        beaten += keys[j] > key || (keys[j] == key && j < position);
    }
    int rank = k;
    for (int begin = 0; begin < padded; begin += STRETCH) {
        const int end = min(begin + STRETCH, padded);
        beaten += beaten_by<true>(keys, begin, min(end, first), part, key);
        beaten += beaten_by<false>(keys, max(begin, last), end, part, key);
        rank = over_parts(beaten);
        if (end < padded && __all_sync(ALL, rank >= k)) break;  // none of this warp's candidates is among the best
    }
    if (part == 0 && position < count && rank < k) {
        best[rank] = position;
    }
    for (int r = count + blockIdx.y * THREADS + threadIdx.x; r < k; r += gridDim.y * THREADS) {
        best[r] = -1;
    }
}
