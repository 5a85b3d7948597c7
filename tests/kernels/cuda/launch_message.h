// One launch, as emulator.py describes it on standard input, and what the kernel wrote, on standard output.
#pragma once
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "watched_memory.h"

namespace cuda {
namespace {

struct Argument {
    char type;
    bool is_array, is_written;
    long bytes;
    char *data;
};
std::vector<Argument> arguments;
size_t argument_index;
long dynamic_bytes, order_seed;

void read_exactly(void *data, size_t bytes) {
    if (fread(data, 1, bytes, stdin) != bytes) fault("the harness sent too little");
}

long read_number() {
    int64_t number;
    read_exactly(&number, 8);
    return number;
}

Argument &take_argument() {
    if (argument_index >= arguments.size()) fault("the kernel takes more than %zu arguments", arguments.size());
    return arguments[argument_index++];
}

void check_type(const Argument &argument, char type) {
    if (type != '*' && argument.type != type)
        fault("argument %zu has type %c, the kernel takes %c", argument_index - 1, argument.type, type);
}

void write_results() {
    for (const Argument &argument : arguments) {
        if (!argument.is_array) continue;
        fputc(argument.is_written, stdout);
        if (argument.is_written) fwrite(argument.data, 1, argument.bytes, stdout);
    }
    fflush(stdout);
}

}  // namespace

void *dynamic_shared() { return shared_memory(nullptr, dynamic_bytes); }

void read_launch() {
    for (dim3 *size : {&grid, &block})
        for (unsigned *extent : {&size->x, &size->y, &size->z}) *extent = unsigned(read_number());
    dynamic_bytes = read_number();
    order_seed = read_number();
    arguments.resize(read_number());
    for (Argument &argument : arguments) {
        argument.type = char(read_number());
        argument.is_array = read_number();
        argument.bytes = read_number();
        argument.is_written = false;
        argument.data = (char *)malloc(argument.bytes);  // of exactly this size, so that an overrun is one
        read_exactly(argument.data, argument.bytes);
    }
}

void *array_argument(char type, bool is_written) {
    Argument &argument = take_argument();
    if (!argument.is_array && argument.bytes == 8 && *(int64_t *)argument.data == 0) return nullptr;
    if (!argument.is_array) fault("argument %zu is no array", argument_index - 1);
    check_type(argument, type);
    argument.is_written = is_written;
    watch(argument.data, argument.bytes, int(argument_index - 1));
    return argument.data;
}

void scalar_argument(char type, void *value, int bytes) {
    const Argument &argument = take_argument();
    check_type(argument, type);
    if (argument.is_array || argument.bytes != bytes) fault("argument %zu has another size", argument_index - 1);
    memcpy(value, argument.data, bytes);
}

}  // namespace cuda
