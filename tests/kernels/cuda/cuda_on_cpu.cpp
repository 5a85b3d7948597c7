// The machine behind cuda_on_cpu.h: threads are fibers, and run one at a time in the order that the harness asks for,
// each until it must wait for others. Blocks run one after the other. A fault is a line on standard error and status 3.
#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "launch_message.h"
#include "watched_memory.h"

namespace cuda {

const Place *place;
dim3 grid, block, block_index;

void fault(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fault in block (%u, %u, %u): ", block_index.x, block_index.y, block_index.z);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    _exit(3);
}

namespace {

// Where threads of one warp or block meet. A thread may be one meeting ahead of another that has yet to read what was
// brought, never two: so two rows of values, used in turn.
struct Meeting {
    int line = 0, arrived = 0, turn = 0;
    std::vector<uint64_t> brought[2];
};

struct Warp {
    uint32_t runnable;  // bit i: lane order[i] can run
    int order[32], rank[32], first, lanes;
    long barriers;  // how many have been passed
    Meeting meeting;
};

struct Fiber {
    Place place;
    ucontext_t start;
    jmp_buf resume;
    bool is_started, is_done;
    int waits_at;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<int> warp_order;
Meeting block_meeting;
long block_barriers;  // how many have been passed
int block_number;
int done;
std::mt19937 random_bits;
void (*kernel_call)(void *);
void *kernel_arguments;

Fiber &self() { return fibers[place->number]; }
Warp &warp_of(const Place &p) { return warps[p.number / 32]; }

// swapcontext makes two system calls, a jump none; but AddressSanitizer only understands the former.
#ifdef SWAP_CONTEXTS
ucontext_t main_start;
void run(Fiber &fiber) {
    place = &fiber.place;
    swapcontext(&main_start, &fiber.start);
}
void stop(Fiber &fiber) { swapcontext(&fiber.start, &main_start); }
#else
jmp_buf main_resume;
void run(Fiber &fiber) {
    place = &fiber.place;
    if (_setjmp(main_resume)) return;
    if (fiber.is_started) _longjmp(fiber.resume, 1);
    fiber.is_started = true;
    setcontext(&fiber.start);
}
void stop(Fiber &fiber) {
    if (!_setjmp(fiber.resume)) _longjmp(main_resume, 1);
}
#endif

void live() {  // a fiber runs its thread of every block, one after the other
    for (;;) {
        kernel_call(kernel_arguments);
        self().is_done = true;
        done++;
        stop(self());
    }
}

void make_runnable(Warp &warp) { warp.runnable = warp.lanes == 32 ? ~0u : (1u << warp.lanes) - 1; }

// Orders 0 and 1 go up and down; the others are random, and new after every barrier.
void reorder() {
    if (order_seed == 0 || order_seed == 1) return;
    std::shuffle(warp_order.begin(), warp_order.end(), random_bits);
}

void reorder_lanes(Warp &warp) {
    std::iota(warp.order, warp.order + warp.lanes, 0);
    if (order_seed == 1) std::reverse(warp.order, warp.order + warp.lanes);
    if (order_seed > 1) std::shuffle(warp.order, warp.order + warp.lanes, random_bits);
    for (int i = 0; i < warp.lanes; i++) warp.rank[warp.order[i]] = i;
}

// Brings a value; true when this thread was the last to come.
bool arrive(Meeting &meeting, int line, int place_there, int expected, uint64_t value) {
    if (meeting.arrived && meeting.line != line)
        fault("divergence: thread %d meets the others at line %d, they wait at line %d", place->number, line,
              meeting.line);
    meeting.line = line;
    meeting.brought[meeting.turn][place_there] = value;
    return ++meeting.arrived == expected;
}

const uint64_t *depart(Meeting &meeting) {
    meeting.arrived = 0;
    meeting.turn ^= 1;
    return meeting.brought[meeting.turn ^ 1].data();
}

const uint64_t *wait(Meeting &meeting, int line) {
    const uint64_t *brought = meeting.brought[meeting.turn].data();
    Warp &warp = warp_of(*place);
    warp.runnable &= ~(1u << warp.rank[place->lane]);
    self().waits_at = line;
    stop(self());
    return brought;
}

Fiber *next_fiber() {
    for (int w : warp_order) {
        Warp &warp = warps[w];
        if (warp.runnable) return &fibers[warp.first + warp.order[__builtin_ctz(warp.runnable)]];
    }
    return nullptr;
}

void run_block() {
    done = 0;
    for (Warp &warp : warps) reorder_lanes(warp), make_runnable(warp);
    reorder();
    while (Fiber *fiber = next_fiber()) {
        run(*fiber);
        if (fiber->is_done) {
            Warp &warp = warp_of(fiber->place);
            warp.runnable &= ~(1u << warp.rank[fiber->place.lane]);
        }
    }
    if (done == int(fibers.size())) return;
    for (Fiber &fiber : fibers)
        if (!fiber.is_done)
            fault("divergence: thread %d waits at line %d for threads that never come there", fiber.place.number,
                  fiber.waits_at);
}

void make_fibers(int threads) {
    fibers.resize(threads);
    warps.resize((threads + 31) / 32);
    warp_order.resize(warps.size());
    std::iota(warp_order.begin(), warp_order.end(), 0);
    if (order_seed == 1) std::reverse(warp_order.begin(), warp_order.end());
    for (int w = 0; w < int(warps.size()); w++) {
        warps[w].first = 32 * w;
        warps[w].lanes = std::min(32, threads - 32 * w);
        for (auto &row : warps[w].meeting.brought) row.resize(32);
    }
    for (auto &row : block_meeting.brought) row.resize(threads);
    const size_t stack = 256 << 10;
    for (int i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.place.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        fiber.place.number = i;
        fiber.place.lane = i % 32;
        fiber.place.lanes = warps[i / 32].lanes;
        fiber.is_started = false;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = malloc(stack);
        fiber.start.uc_stack.ss_size = stack;
        makecontext(&fiber.start, live, 0);
    }
}

}  // namespace

Access now() {
    return {place->number, place->number / 32, block_number, block_barriers, warp_of(*place).barriers};
}

const uint64_t *meet_block(int line, uint64_t value) {
    if (!arrive(block_meeting, line, place->number, int(fibers.size()), value)) return wait(block_meeting, line);
    block_barriers++;
    for (Warp &warp : warps) reorder_lanes(warp), make_runnable(warp);
    reorder();
    return depart(block_meeting);
}

const uint64_t *meet_warp(int line, unsigned mask, uint64_t value, bool orders_memory) {
    Warp &warp = warp_of(*place);
    unsigned all = warp.lanes == 32 ? ~0u : (1u << warp.lanes) - 1;
    if ((mask & all) != all) fault("mask %#x at line %d leaves out lanes of the warp", mask, line);
    if (!arrive(warp.meeting, line, place->lane, warp.lanes, value)) return wait(warp.meeting, line);
    warp.barriers += orders_memory;
    make_runnable(warp);
    if (order_seed > 1 && order_seed % 2) reorder();  // odd orders mix warps, even ones let one run far ahead
    return depart(warp.meeting);
}

int launch(void (*kernel)(void *), void *kernel_arguments_) {
    if (argument_index != arguments.size())
        fault("the kernel takes %zu arguments, not %zu", argument_index, arguments.size());
    kernel_call = kernel;
    kernel_arguments = kernel_arguments_;
    random_bits.seed(order_seed);
    make_fibers(block.x * block.y * block.z);
    for (block_index.z = 0; block_index.z < grid.z; block_index.z++)
        for (block_index.y = 0; block_index.y < grid.y; block_index.y++)
            for (block_index.x = 0; block_index.x < grid.x; block_index.x++) {
                forget_shared_memory();
                for (Fiber &fiber : fibers) fiber.is_done = false;
                run_block();
                block_number++;
            }
    write_results();
    _exit(0);
}

}  // namespace cuda
