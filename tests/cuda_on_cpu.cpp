// Runs the kernels of KERNELS, a CUDA source, on a CPU: the threads of a block are coroutines that take turns from
// barrier to barrier, in one order and then the other, so that a barrier that is missing shows.
//
// The shape of a team is asked for at each launch here, where CUDA has a program for each.

#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

using std::fabs;
using std::fma;
using std::fmax;
using std::fmin;

// CUDA's exp and log1p of a float are within an ulp of the truth, and so these are: one of the two numbers beside it,
// either, and the same in every launch. Those of a double are the host's.
static unsigned drawn;
static float beside(double truth) {
    drawn = drawn * 1664525u + 1013904223u;
    float nearest = (float)truth;
    if (nearest == truth || !std::isnormal(nearest) || drawn >> 31) return nearest;
    return std::nextafter(nearest, nearest < truth ? HUGE_VALF : -HUGE_VALF);
}
float exp_of_cuda(float x) { return beside(std::exp((double)x)); }
double exp_of_cuda(double x) { return std::exp(x); }
float log1p_of_cuda(float x) { return beside(std::log1p((double)x)); }
double log1p_of_cuda(double x) { return std::log1p(x); }
#define exp exp_of_cuda
#define log1p log1p_of_cuda

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static

struct Coordinates {
    int x, y;
};
static Coordinates threadIdx, blockIdx;

static int FUNCTION, LANES, COLUMNS, UNIT;
static double shared_memory[(1 << 15) / sizeof(double)];

static const int THREADS = 256, STACK = 1 << 16;
static std::vector<char> stacks(THREADS* STACK);
static ucontext_t scheduler, threads[THREADS];
static const char* waits_at[THREADS];  // a kind of barrier; null where the kernel has ended
static int barriers[THREADS];
static char exchanged[2][THREADS][16];

static void wait(const char* barrier) {
    int me = threadIdx.x;
    waits_at[me] = barrier;
    ++barriers[me];
    swapcontext(&threads[me], &scheduler);
}

static void __syncthreads() { wait("__syncthreads"); }

template <class T> T shuffled(T x, int distance) {
    int me = threadIdx.x, turn = barriers[me] % 2;  // two places: the next turn must not overwrite what is still read
    static_assert(sizeof(T) <= 16, "");
    std::memcpy(exchanged[turn][me], &x, sizeof x);
    wait("shuffle");
    std::memcpy(&x, exchanged[turn][me ^ distance], sizeof x);
    return x;
}

static float float_of_half(unsigned short bits) {
    _Float16 x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static unsigned short half_of_float(float x) {
    _Float16 half = x;
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

static unsigned bits_of_float(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of_bits(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

#include KERNELS

static void (*current)(void**);
static void** arguments;

static void thread() {
    current(arguments);
    waits_at[threadIdx.x] = nullptr;
}

static void run_block() {
    for (int i = 0; i < THREADS; ++i) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = &stacks[i * STACK];
        threads[i].uc_stack.ss_size = STACK;
        threads[i].uc_link = &scheduler;
        makecontext(&threads[i], thread, 0);
        barriers[i] = 0;
    }
    for (bool backwards = false;; backwards = !backwards) {
        for (int i = 0; i < THREADS; ++i) {
            threadIdx.x = backwards ? THREADS - 1 - i : i;
            swapcontext(&scheduler, &threads[threadIdx.x]);
        }
        for (int i = 1; i < THREADS; ++i) {
            if (waits_at[i] != waits_at[0]) {
                std::fprintf(stderr, "threads 0 and %d wait at different barriers\n", i);
                std::abort();
            }
        }
        if (!waits_at[0]) return;
    }
}

template <class... P, std::size_t... I> void spread(void (*kernel)(P...), void** a, std::index_sequence<I...>) {
    kernel(*(P*)a[I]...);
}
template <class... P> bool takes(void (*)(P...), int count) { return (int)sizeof...(P) == count; }
template <class... P> void apply(void (*kernel)(P...), void** a) {
    spread(kernel, a, std::make_index_sequence<sizeof...(P)>());
}

// `shape` is FUNCTION, LANES, COLUMNS, UNIT and the grid; 0 if the kernel takes so many arguments
extern "C" int launch(const char* name, const int* shape, void** given, int count) {
    FUNCTION = shape[0], LANES = shape[1], COLUMNS = shape[2], UNIT = shape[3];
    arguments = given;
    drawn = 1;
    if (!std::strcmp(name, "whole_rows")) current = [](void** a) { apply(whole_rows, a); };
    else if (!std::strcmp(name, "stretches_of_rows")) current = [](void** a) { apply(stretches_of_rows, a); };
    else current = [](void** a) { apply(rows_of_stretches, a); };
    if (!takes(whole_rows, count)) return 1;
    for (blockIdx.y = 0; blockIdx.y < shape[5]; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < shape[4]; ++blockIdx.x) run_block();
    }
    return 0;
}

// the states of single entries merged in the order of a tree: pair after pair of the places in `order`
extern "C" void merge_in_order(const void* entries, int n, const int* order, void* top_and_rest) {
    LANES = COLUMNS = 1;
    threadIdx.x = 0;
    drawn = 1;
    std::vector<State> states;
    for (int i = 0; i < n; ++i) {
        Real v[CHUNK];
        for (Real& each : v) each = -INFINITE;
        v[0] = widened(((const STORED*)entries)[i]);
        State s = nothing();
        push(s, v);
        states.push_back(s);
    }
    for (int i = 0; i < n - 1; ++i) merge(states[order[2 * i]], together(states[order[2 * i + 1]]));
    Row found = together(states[n > 1 ? order[2 * n - 4] : 0]);
    std::memcpy(top_and_rest, &found, sizeof found);
}
