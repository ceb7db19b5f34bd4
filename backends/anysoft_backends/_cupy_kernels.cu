// One pass over rows of logits: logsumexp, softmax and log_softmax of float, double and the half types.
//
// What a thread has read is a State: the largest entry, and the sum of the exponentials of all others, beside which they
// would lose their roundings. That sum is relative to `shift`, not to the largest: the two part by up to SLACK before
// the sum is scaled again, or else a row in ascending order would round it at every entry.
//
// Nothing here needs a fast or a slow floating-point mode: a difference's error is computed by additions only, which no
// compiler fuses. tests/cuda_on_cpu.cpp runs this same file on a CPU.
//
// Given by -D: STORED, the type in memory; FUNCTION; and the shape of a team, the threads that share a row. LANES
// threads go along the row, and those of COLUMNS rows lie side by side, so that loads coalesce where the rows are
// columns in memory. UNIT says that the entries of a row are neighbours.

#define BLOCK 256
#define TEAM (LANES * COLUMNS)
#define ROWS (BLOCK / LANES)
#define CHUNK 8  // entries that a thread takes at once
#define SLACK 8

#define LOGSUMEXP 0
#define SOFTMAX 1
#define LOG_SOFTMAX 2

typedef long long Index;

struct Half {
    unsigned short bits;
};
struct Bfloat16 {
    unsigned short bits;
};

#ifdef __CUDACC__
__device__ float float_of_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ unsigned short half_of_float(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ unsigned bits_of_float(float x) { return __float_as_uint(x); }
__device__ float float_of_bits(unsigned bits) { return __uint_as_float(bits); }

template <class T> __device__ T shuffled(T x, int distance) { return __shfl_xor_sync(0xffffffffu, x, distance); }

extern __shared__ double shared_memory[];
#endif

__device__ float widened(Half x) { return float_of_half(x.bits); }
__device__ float widened(Bfloat16 x) { return float_of_bits((unsigned)x.bits << 16); }
__device__ float widened(float x) { return x; }
__device__ double widened(double x) { return x; }

__device__ void narrow(float x, Half& to) { to.bits = half_of_float(x); }
__device__ void narrow(float x, Bfloat16& to) {
    unsigned bits = bits_of_float(x);
    // to the nearest, ties to even; a NaN must not be rounded to infinity
    to.bits = x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u;
}
__device__ void narrow(float x, float& to) { to = x; }
__device__ void narrow(double x, double& to) { to = x; }

typedef decltype(widened(STORED())) Real;

__device__ float largest_of(float) { return 3.402823466e38f; }
__device__ double largest_of(double) { return 1.7976931348623157e308; }

#define INFINITE ((Real)float_of_bits(0x7f800000u))
#define LARGEST largest_of((Real)0)

// ---------------------------------------------------------------------------------------------------------------------
// Sums of two words, and exponentials of exact differences

struct Sum {
    Real high, low;
};

__device__ Sum plus(Sum s, Real x) {
    Real total = s.high + x;
    Real back = total - s.high;
    return {total, s.low + ((s.high - (total - back)) + (x - back))};
}

__device__ Sum plus(Sum a, Sum b) {
    a.low += b.low;
    return plus(a, b.high);
}

__device__ Sum times(Sum s, Real factor) {
    Real product = s.high * factor;
    return {product, fma(s.low, factor, fma(s.high, factor, -product))};
}

// exp(x - shift). The rounding of the difference is worth up to half an ulp of it in the exponent: more than the
// contract allows a row whose mass lies far below its maximum. Halves do not see it.
__device__ Real exp_of_difference(Real x, Real shift) {
    Real d = x - shift;
    Real e = exp(d);
    if (sizeof(STORED) < sizeof(Real)) return e;
    Real back = d - x;
    Real error = (x - (d - back)) - (shift + back);
    return fma(e, fabs(error) < 1 ? error : 0, e);  // it is NaN where d is infinite
}

__device__ Real clamped(Real x) { return fmax(fmin(x, LARGEST), -LARGEST); }

// ---------------------------------------------------------------------------------------------------------------------
// What is known of some entries. A NaN among them is in the rest, because no comparison lets it be the largest.

struct State {
    Real shift;  // always finite
    Real top;
    Sum rest;
};

// the same with the rest relative to the largest, for other blocks
struct Row {
    Real top, rest;
};

__device__ State nothing() { return {-LARGEST, -INFINITE, {0, 0}}; }

// a new largest entry: the one that was it joins the others
__device__ void raise(State& s, Real top) {
    Real shift = clamped(top);
    if (shift - s.shift > SLACK) {
        s.rest = times(s.rest, exp_of_difference(s.shift, shift));
        s.shift = shift;
    }
    s.rest = plus(s.rest, exp_of_difference(s.top, s.shift));
    s.top = top;
}

// entries that are missing are -inf
__device__ void push(State& s, Real (&v)[CHUNK]) {
    Real highest = v[0];
#pragma unroll
    for (int i = 1; i < CHUNK; ++i) highest = fmax(highest, v[i]);
    if (highest > s.top || highest == INFINITE) {
        bool apart = highest <= s.top;
        if (!apart) raise(s, highest);
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
            // beside one infinite entry the others change nothing
            if (v[i] == highest && (!apart || highest == INFINITE)) {
                v[i] = -INFINITE;
                apart = true;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) v[i] = exp_of_difference(v[i], s.shift);
#pragma unroll
    for (int half = CHUNK / 2; half > 0; half /= 2) {
#pragma unroll
        for (int i = 0; i < half; ++i) v[i] += v[i + half];
    }
    s.rest = plus(s.rest, v[0]);
}

__device__ void merge(State& s, Row r) {
    if (r.top > s.top) raise(s, r.top);
    else s.rest = plus(s.rest, exp_of_difference(fmin(r.top, LARGEST), s.shift));
    s.rest = plus(s.rest, r.rest * exp_of_difference(clamped(r.top), s.shift));
}

// ---------------------------------------------------------------------------------------------------------------------
// A team. All threads of a block come here, those without a row too.

__device__ int lane() { return threadIdx.x / COLUMNS % LANES; }
__device__ Index row_of_thread() {
    return (Index)blockIdx.x * ROWS + threadIdx.x / TEAM * COLUMNS + threadIdx.x % COLUMNS;
}

struct Top {
    Real value;
    int lane;
};

__device__ Top shuffled(Top x, int distance) { return {shuffled(x.value, distance), shuffled(x.lane, distance)}; }
__device__ Sum shuffled(Sum x, int distance) { return {shuffled(x.high, distance), shuffled(x.low, distance)}; }

__device__ Top joined(Top a, Top b) {
    return a.value > b.value || (a.value == b.value && a.lane < b.lane) ? a : b;
}
__device__ Sum joined(Sum a, Sum b) { return plus(a, b); }

template <class T> __device__ T over_team(T mine) {
#pragma unroll
    for (int distance = COLUMNS; distance < TEAM && distance < 32; distance *= 2) {
        mine = joined(mine, shuffled(mine, distance));
    }
    if (TEAM > 32) {
        __shared__ T of_warp[BLOCK];  // written once: a kernel comes here once for each T
        of_warp[threadIdx.x] = mine;
        __syncthreads();
        const T* team = of_warp + threadIdx.x / TEAM * TEAM + threadIdx.x % 32;
        mine = team[0];
        for (int i = 32; i < TEAM; i += 32) mine = joined(mine, team[i]);
    }
    return mine;
}

// The states of a team as one. All are scaled to one maximum, once: merging them in pairs would round at each level.
__device__ Row together(State s) {
    Top top = over_team(Top{s.top, lane()});
    Real shift = clamped(top.value);
    Sum rest = times(s.rest, exp_of_difference(s.shift, shift));
    if (lane() != top.lane) rest = plus(rest, exp_of_difference(fmin(s.top, LARGEST), shift));
    rest = over_team(rest);
    return {top.value, rest.high + rest.low};
}

__device__ Real logsumexp(Row r) {
    Real value = r.top + log1p(r.rest);
    // of what cancels, the logarithm's own rounding would be left over; double is slow, but few rows come here
    if (sizeof(STORED) == 4 && fabs(value) < fabs(r.top) / 4) value = (Real)(r.top + log1p((double)r.rest));
    return value;
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows in memory: `count` entries, of which a thread has every LANES-th

__device__ Index entries_of_lane(Index count) { return count > lane() ? (count - lane() + LANES - 1) / LANES : 0; }

template <class Visit> __device__ void for_chunks(const STORED* p, Index step, Index entries, Visit visit) {
    STORED v[CHUNK];
    for (; entries >= CHUNK; entries -= CHUNK, p += CHUNK * step) {
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) v[i] = p[i * step];
        visit(v, CHUNK);
    }
    if (entries > 0) {
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
            if (i < entries) v[i] = p[i * step];
        }
        visit(v, (int)entries);
    }
}

// `keep`: a copy stays in shared memory, where each thread writes and reads places of its own
__device__ State read(const STORED* x, Index along, Index count, bool keep) {
    State s = nothing();
    STORED* kept = (STORED*)shared_memory + threadIdx.x;
    for_chunks(x + lane() * along, LANES * along, entries_of_lane(count), [&](const STORED(&raw)[CHUNK], int valid) {
        Real v[CHUNK];
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) v[i] = i < valid ? widened(raw[i]) : -INFINITE;
        if (keep) {
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) {
                if (i < valid) kept[i * BLOCK] = raw[i];
            }
            kept += CHUNK * BLOCK;
        }
        push(s, v);
    });
    return s;
}

__device__ void write(
    const STORED* x, Index x_along, STORED* out, Index out_along, Index count, bool kept, Row row
) {
    Real undefined = row.top - row.top;  // NaN if it is infinite, or else 0
    Real sum = 1 + row.rest + undefined;
    Real log_sum = log1p(row.rest) + undefined;
    out += lane() * out_along;
    auto normalise = [&](const STORED(&raw)[CHUNK], int valid) {
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
            if (i < valid) {
                Real v = widened(raw[i]);
                narrow(
                    FUNCTION == SOFTMAX ? exp_of_difference(v, row.top) / sum : (v - row.top) - log_sum,
                    out[i * LANES * out_along]
                );
            }
        }
        out += CHUNK * LANES * out_along;
    };
    if (kept) for_chunks((STORED*)shared_memory + threadIdx.x, BLOCK, entries_of_lane(count), normalise);
    else for_chunks(x + lane() * x_along, LANES * x_along, entries_of_lane(count), normalise);
}

__device__ Index
offset(Index row, Index middle, Index inner, Index outer_stride, Index middle_stride, Index inner_stride) {
    if (row < inner) return row * inner_stride;  // a division takes as long as many entries of a row
    Index others = row / inner;
    return others / middle * outer_stride + others % middle * middle_stride + row % inner * inner_stride;
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels. Rows have up to three axes, of `rows / (middle * inner)`, `middle` and `inner` entries; strides are in
// entries. Rows may be cut into stretches, blockIdx.y says which.

#define PARAMETERS                                                                                                     \
    const STORED *x, STORED *out, Row *states, Index rows, Index n, Index stretches, Index length, Index keep,         \
        Index middle, Index inner, Index x_outer, Index x_middle, Index x_inner, Index x_stride, Index out_outer,      \
        Index out_middle, Index out_inner, Index out_stride

#define PLACE                                                                                                          \
    const Index row = row_of_thread();                                                                                 \
    const bool there = row < rows;                                                                                     \
    const Index x_along = UNIT ? 1 : x_stride, out_along = UNIT ? 1 : out_stride;                                      \
    const Index start = blockIdx.y * length;                                                                           \
    const Index count = !there ? 0 : n - start < length ? n - start : length;                                          \
    if (there) {                                                                                                       \
        x += offset(row, middle, inner, x_outer, x_middle, x_inner) + start * x_along;                                 \
        out += offset(row, middle, inner, out_outer, out_middle, out_inner);                                           \
        if (FUNCTION != LOGSUMEXP) out += start * out_along;                                                           \
    }

#define FINISH(found)                                                                                                  \
    if (FUNCTION != LOGSUMEXP) write(x, x_along, out, out_along, count, keep, found);                                  \
    else if (there && lane() == 0) narrow(logsumexp(found), *out);

extern "C" __global__ void __launch_bounds__(BLOCK) whole_rows(PARAMETERS) {
    PLACE
    Row found = together(read(x, x_along, count, FUNCTION != LOGSUMEXP && keep));
    FINISH(found)
}

extern "C" __global__ void __launch_bounds__(BLOCK) stretches_of_rows(PARAMETERS) {
    PLACE
    Row found = together(read(x, x_along, count, false));
    if (there && lane() == 0) states[row * stretches + blockIdx.y] = found;
}

extern "C" __global__ void __launch_bounds__(BLOCK) rows_of_stretches(PARAMETERS) {
    PLACE
    State s = nothing();
    if (there) {
        for (Index i = lane(); i < stretches; i += LANES) merge(s, states[row * stretches + i]);
    }
    Row found = together(s);
    FINISH(found)
}
