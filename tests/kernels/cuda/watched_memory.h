// The memory that threads share: what a block sees of it, and who touches which byte when.
// A race is two accesses of one byte by different threads, one of them a write, with no barrier between. The kernel is
// compiled with -fsanitize=thread, which calls the __tsan_ functions below; GCC's own library is not linked.
#pragma once
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda {

[[noreturn]] void fault(const char *format, ...);

struct Access {
    int thread = -1, warp = -1, block = -1;   // -1: none, -2: several
    long block_barriers = 0, warp_barriers = 0;  // how many had been passed
    bool is_atomic = false;
};
Access now();  // who runs, without is_atomic

namespace {

struct Cell {
    Access write, read;
};
struct Region {
    char *start, *end;
    int argument;  // which one, -1: shared memory
    std::vector<Cell> cells;
    std::string name() const { return argument < 0 ? "shared memory" : "argument " + std::to_string(argument); }
};
std::vector<Region> regions;
enum Kind { READ, WRITE, ATOMIC };

bool races(const Access &past, const Access &now) {
    if (past.thread == -1 || (past.thread == now.thread && past.block == now.block)) return false;
    if (past.is_atomic && now.is_atomic) return false;
    if (past.block != now.block) return true;
    if (past.block_barriers < now.block_barriers) return false;
    return past.warp != now.warp || past.warp_barriers >= now.warp_barriers;
}

// What is kept of the reads of a byte since the last barrier, now that `access` is one of them.
Access joined(const Access &reads, Access access) {
    if (reads.block != access.block || reads.block_barriers < access.block_barriers) return access;
    if (reads.thread != access.thread) access.thread = -2;
    if (reads.warp != access.warp) access.warp = -2;
    return access;
}

void touch(const volatile void *address, int bytes, Kind kind) {
    if (!place) return;
    for (Region &region : regions) {
        if (address < region.start || address >= region.end) continue;
        Access access = now();
        access.is_atomic = kind == ATOMIC;
        const long first = (const volatile char *)address - region.start;
        for (long i = first; i < first + bytes && i < long(region.cells.size()); i++) {
            Cell &cell = region.cells[i];
            const bool after_write = races(cell.write, access);
            if (after_write || (kind != READ && races(cell.read, access)))
                fault("race: thread %d %s byte %ld of %s, which thread %d %s, and no barrier is between", access.thread,
                      kind == READ ? "reads" : "writes", i, region.name().c_str(),
                      after_write ? cell.write.thread : cell.read.thread, after_write ? "wrote" : "read");
            if (kind == READ) cell.read = joined(cell.read, access);
            else cell.write = access;
        }
        return;
    }
}

void watch(void *start, size_t bytes, int argument) {
#ifdef WATCH_RACES
    regions.push_back({(char *)start, (char *)start + bytes, argument, std::vector<Cell>(bytes)});
#endif
}

std::map<const void *, char *> shared_variables;

void forget_shared_memory() {  // each block has its own
    for (auto &entry : shared_variables) free(entry.second);
    shared_variables.clear();
    auto is_shared = [](const Region &region) { return region.argument < 0; };
    regions.erase(std::remove_if(regions.begin(), regions.end(), is_shared), regions.end());
}

}  // namespace

// Of exactly the size that was asked for, so that an overrun is one; a kernel must not count on what it holds at first.
void *shared_memory(const void *key, size_t bytes) {
    char *&memory = shared_variables[key];
    if (!memory) {
        memory = (char *)memset(malloc(bytes), 0x7f, bytes);
        watch(memory, bytes, -1);
    }
    return memory;
}

void note_atomic(const volatile void *address, int bytes) { touch(address, bytes, ATOMIC); }

}  // namespace cuda

#define WATCH(size)                                                                                          \
    extern "C" void __tsan_read##size(void *address) { cuda::touch(address, size, cuda::READ); }             \
    extern "C" void __tsan_write##size(void *address) { cuda::touch(address, size, cuda::WRITE); }           \
    extern "C" void __tsan_unaligned_read##size(void *address) { cuda::touch(address, size, cuda::READ); }   \
    extern "C" void __tsan_unaligned_write##size(void *address) { cuda::touch(address, size, cuda::WRITE); }
WATCH(1)
WATCH(2)
WATCH(4)
WATCH(8)
WATCH(16)
extern "C" void __tsan_read_range(void *address, size_t bytes) { cuda::touch(address, int(bytes), cuda::READ); }
extern "C" void __tsan_write_range(void *address, size_t bytes) { cuda::touch(address, int(bytes), cuda::WRITE); }
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
