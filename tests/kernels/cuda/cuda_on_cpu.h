// Lets g++ compile a CUDA kernel and run it on a CPU: the words of the language, the types, and the intrinsics. Of a
// source emulator.py changes only how it declares shared memory. Threads are fibers; where they meet (barriers,
// shuffles) the runtime in cuda_on_cpu.cpp lets them wait, in shuffled orders. Stricter than a GPU: all threads of a warp
// or block must meet at the same line, none may have returned, and no warp mask but the full one is taken.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace cuda {

struct Place {
    dim3 thread;
    int number, lane, lanes;  // of the thread in its block and in its warp, and how many lanes its warp has
};
extern const Place *place;  // of the thread that runs now
extern dim3 grid, block, block_index;

// Waits until all threads of the block (or warp) have come to this line; what each brought, by number (or lane).
const uint64_t *meet_block(int line, uint64_t value);
const uint64_t *meet_warp(int line, unsigned mask, uint64_t value, bool orders_memory);
void *shared_memory(const void *key, size_t bytes);  // of this block, the same for the same key
void *dynamic_shared();
void note_atomic(const volatile void *address, int bytes);

// One launch, as the harness describes it on standard input; what the kernel wrote goes to standard output.
void read_launch();
void *array_argument(char type, bool is_written);  // null where the harness says so
void scalar_argument(char type, void *value, int bytes);
int launch(void (*kernel)(void *), void *arguments);

// The harness writes `__shared__ T name[n];` as `T(&name)[n] = shared<T[n], id>();`.
template <class T, int id> T &shared() {
    static char key;
    return *(T *)shared_memory(&key, sizeof(T));
}

template <class T> uint64_t pack(T value) {
    static_assert(sizeof(T) <= 8, "shuffles exchange at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class T> T unpack(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T> T shuffle(int line, unsigned mask, T value, int source) {
    const uint64_t *brought = meet_warp(line, mask, pack(value), false);
    return unpack<T>(source < place->lanes ? brought[source] : 0x7f7f7f7f7f7f7f7f);
}

inline unsigned whole_warp(unsigned mask = ~0u) { return mask; }
inline int segment(int width) { return place->lane / width * width; }
inline int lane_xor(int mask, int width = 32) {
    int source = place->lane ^ mask;
    return source < segment(width) + width ? source : place->lane;
}
inline int lane_down(int delta, int width = 32) {
    int source = place->lane + delta;
    return source < segment(width) + width ? source : place->lane;
}
inline int lane_up(int delta, int width = 32) {
    int source = place->lane - delta;
    return source >= segment(width) ? source : place->lane;
}
inline int lane_index(int lane, int width = 32) { return segment(width) + (lane & (width - 1)); }

template <class T, class Combine> T over_warp(int line, unsigned mask, T value, Combine combine) {
    const uint64_t *brought = meet_warp(line, mask, pack(value), false);
    T result = unpack<T>(brought[0]);
    for (int lane = 1; lane < place->lanes; lane++) result = combine(result, unpack<T>(brought[lane]));
    return result;
}

inline unsigned ballot(int line, unsigned mask, bool vote) {
    return over_warp(line, mask, unsigned(vote) << place->lane, [](unsigned a, unsigned b) { return a | b; });
}

inline int count_block(int line, bool vote) {
    const uint64_t *brought = meet_block(line, vote);
    int count = 0;
    for (unsigned i = 0; i < block.x * block.y * block.z; i++) count += int(brought[i]);
    return count;
}

// Not inlined into instrumented code: atomics may meet each other, plain accesses may not.
template <class T, class Combine>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T *address, T value, Combine combine) {
    note_atomic(address, sizeof(T));
    T old = *address;
    *address = combine(old, value);
    return old;
}

struct Half {
    unsigned short bits;
};

inline float half_to_float(Half half) {
    int exponent = half.bits >> 10 & 31, mantissa = half.bits & 1023;
    float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf(float(mantissa), -24)
                                 : ldexpf(float(mantissa | 1024), exponent - 25);
    return half.bits & 0x8000 ? -size : size;
}

inline Half float_to_half(float value) {  // rounds to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &value, 4);
    float size = fabsf(value);
    unsigned half = isnan(value)      ? 0x7fff
                    : size >= 65520.f ? 0x7c00
                    : size < 0x1p-14f ? unsigned(rintf(size * 0x1p24f))
                                      : ((bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13;
    return Half{(unsigned short)(half | (bits >> 16 & 0x8000))};
}

template <class T> constexpr char type_code() {
    if (std::is_same_v<T, float>) return 'f';
    if (std::is_same_v<T, double>) return 'd';
    if (std::is_same_v<T, signed char> || std::is_same_v<T, char>) return 'b';
    if (std::is_same_v<T, unsigned char>) return 'B';
    if (std::is_same_v<T, short>) return 'h';
    if (std::is_same_v<T, int>) return 'i';
    if (std::is_same_v<T, unsigned>) return 'I';
    if (std::is_integral_v<T> && sizeof(T) == 8) return std::is_signed_v<T> ? 'l' : 'L';
    return std::is_same_v<T, Half> ? 'e' : '*';
}

template <class T> T next_argument() {
    if constexpr (std::is_pointer_v<T>) {
        using Element = std::remove_pointer_t<T>;
        return (T)array_argument(type_code<std::remove_const_t<Element>>(), !std::is_const_v<Element>);
    } else {
        T value;
        scalar_argument(type_code<T>(), &value, sizeof(T));
        return value;
    }
}

template <class... Arguments> int serve(void (*kernel)(Arguments...)) {
    read_launch();
    struct Call {
        void (*kernel)(Arguments...);
        std::tuple<Arguments...> arguments;
    } call{kernel, {next_argument<Arguments>()...}};
    return launch([](void *c) { std::apply(((Call *)c)->kernel, ((Call *)c)->arguments); }, &call);
}

}  // namespace cuda

#define threadIdx (cuda::place->thread)
#define blockIdx (cuda::block_index)
#define blockDim (cuda::block)
#define gridDim (cuda::grid)
#define warpSize 32

#define __syncthreads() ((void)cuda::meet_block(__LINE__, 0))
#define __syncthreads_count(vote) cuda::count_block(__LINE__, vote)
#define __syncthreads_or(vote) (cuda::count_block(__LINE__, vote) > 0)
#define __syncthreads_and(vote) (cuda::count_block(__LINE__, !(vote)) == 0)
#define __syncwarp(...) ((void)cuda::meet_warp(__LINE__, cuda::whole_warp(__VA_ARGS__), 0, true))
#define __shfl_sync(mask, value, ...) cuda::shuffle(__LINE__, mask, value, cuda::lane_index(__VA_ARGS__))
#define __shfl_xor_sync(mask, value, ...) cuda::shuffle(__LINE__, mask, value, cuda::lane_xor(__VA_ARGS__))
#define __shfl_down_sync(mask, value, ...) cuda::shuffle(__LINE__, mask, value, cuda::lane_down(__VA_ARGS__))
#define __shfl_up_sync(mask, value, ...) cuda::shuffle(__LINE__, mask, value, cuda::lane_up(__VA_ARGS__))
#define __ballot_sync(mask, vote) cuda::ballot(__LINE__, mask, vote)
#define __any_sync(mask, vote) (cuda::ballot(__LINE__, mask, vote) != 0)
#define __all_sync(mask, vote) (cuda::ballot(__LINE__, mask, !(vote)) == 0)
#define __reduce_max_sync(mask, value) \
    cuda::over_warp(__LINE__, mask, value, [](auto a, auto b) { return a > b ? a : b; })
#define __reduce_min_sync(mask, value) \
    cuda::over_warp(__LINE__, mask, value, [](auto a, auto b) { return a < b ? a : b; })
#define __reduce_add_sync(mask, value) \
    cuda::over_warp(__LINE__, mask, value, [](auto a, auto b) { return a + b; })

template <class T> T atomicMin(T *p, T v) { return cuda::atomic(p, v, [](T a, T b) { return a < b ? a : b; }); }
template <class T> T atomicMax(T *p, T v) { return cuda::atomic(p, v, [](T a, T b) { return a > b ? a : b; }); }
template <class T> T atomicAdd(T *p, T v) { return cuda::atomic(p, v, [](T a, T b) { return T(a + b); }); }
template <class T> T atomicOr(T *p, T v) { return cuda::atomic(p, v, [](T a, T b) { return a | b; }); }
template <class T> T atomicExch(T *p, T v) { return cuda::atomic(p, v, [](T, T b) { return b; }); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __ldg(const T *address) { return *address; }
template <class T> T __ldcs(const T *address) { return *address; }
template <class T> void __stcs(T *address, T value) { *address = value; }

// -ffp-contract=off keeps the compiler from fusing these.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float2int_rn(float a) { return int(rintf(a)); }
inline int __float2int_rz(float a) { return int(a); }
inline float __int2float_rn(int a) { return float(a); }
inline int __float_as_int(float a) { return cuda::unpack<int>(cuda::pack(a)); }
inline unsigned __float_as_uint(float a) { return cuda::unpack<unsigned>(cuda::pack(a)); }
inline float __int_as_float(int a) { return cuda::unpack<float>(cuda::pack(a)); }
inline float __uint_as_float(unsigned a) { return cuda::unpack<float>(cuda::pack(a)); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __clz(unsigned a) { return a ? __builtin_clz(a) : 32; }
inline int __ffs(int a) { return __builtin_ffs(a); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }

using __half = cuda::Half;
using half = __half;
inline float __half2float(__half a) { return cuda::half_to_float(a); }
inline __half __float2half_rn(float a) { return cuda::float_to_half(a); }
inline __half __float2half(float a) { return cuda::float_to_half(a); }

#define VECTOR_TYPES(name, T)                                                             \
    struct __align__(2 * sizeof(T)) name##2 { T x, y; };                                  \
    struct __align__(4 * sizeof(T)) name##4 { T x, y, z, w; };                            \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                            \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR_TYPES(float, float)
VECTOR_TYPES(int, int)
VECTOR_TYPES(uint, unsigned)
VECTOR_TYPES(char, signed char)
VECTOR_TYPES(uchar, unsigned char)
#undef VECTOR_TYPES
struct __align__(4) __half2 { __half x, y; };
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline float2 __half22float2(__half2 a) { return {__half2float(a.x), __half2float(a.y)}; }
