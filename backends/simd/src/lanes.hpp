// Groups of lanes, how they are read and written, and their sums. Included once for each instruction set, inside a
// namespace of its own.
//
// An array is (outer, n, inner), contiguous, and reduced along n. A `Walk` sees a part of it as steps of up to four
// vectors that lie side by side: some of the columns of a wide array, several steps of a narrow one (lane j is then
// column j modulo the width), stretches of one long row, or many short rows that were turned.

template <class T>
using Vector = typename Kind<T>::V;

constexpr int Q = 4;
template <class T>
constexpr int VECTOR = BYTES / sizeof(T);
template <class T>
constexpr int LANES = Q * VECTOR<T>;
constexpr long CHUNK =
    (1 << 16) / (Q * BYTES);  // steps, 64 KiB: what was looked at for its maximum is near when it is summed

template <class T>
struct Group {
    Vector<T> a, b, c, d;  // by name, because a compiler keeps an array in memory
};

template <class T, class F, class... Groups>
INLINE Group<T> map(F f, const Groups&... g) {
    return Group<T>{f(g.a...), f(g.b...), f(g.c...), f(g.d...)};
}

template <class T>
INLINE Group<T> all(T value) {
    Vector<T> v = Vector<T>{} + value;
    return Group<T>{v, v, v, v};
}

template <class T>
INLINE Vector<T> vector_at(const T* x) {
    Vector<T> v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
}

// All lanes of a vector by f, in halves.
template <class T, class F>
INLINE T across(Vector<T> v, F f) {
    for (int h = VECTOR<T> / 2; h; h /= 2) {
        typename Kind<T>::I from{};
        for (int j = 0; j < VECTOR<T>; j++) from[j] = j ^ h;
#ifdef __clang__
        Vector<T> turned = v;
        for (int j = 0; j < VECTOR<T>; j++) turned[j] = v[from[j]];
        v = f(v, turned);
#else
        v = f(v, __builtin_shuffle(v, from));
#endif
    }
    return v[0];
}

template <class T>
INLINE Group<T> read(const T* x) {
    constexpr int n = VECTOR<T>;
    return Group<T>{vector_at<T>(x), vector_at<T>(x + n), vector_at<T>(x + 2 * n), vector_at<T>(x + 3 * n)};
}

template <class T>
INLINE void write(T* out, const Group<T>& g) {
    constexpr int n = VECTOR<T>;
    __builtin_memcpy(out, &g.a, BYTES);
    __builtin_memcpy(out + n, &g.b, BYTES);
    __builtin_memcpy(out + 2 * n, &g.c, BYTES);
    __builtin_memcpy(out + 3 * n, &g.d, BYTES);
}

// The first lanes of a group; those that are not there are `absent`.
#if BYTES == 64
INLINE unsigned first(int lanes, int of) { return lanes >= of ? (1u << of) - 1 : lanes > 0 ? (1u << lanes) - 1 : 0; }
INLINE Vector<float> some(const float* x, int lanes, Vector<float> absent) {
    return (Vector<float>)_mm512_mask_loadu_ps((__m512)absent, (__mmask16)first(lanes, 16), x);
}
INLINE Vector<double> some(const double* x, int lanes, Vector<double> absent) {
    return (Vector<double>)_mm512_mask_loadu_pd((__m512d)absent, (__mmask8)first(lanes, 8), x);
}
INLINE void put_some(float* out, int lanes, Vector<float> v) {
    _mm512_mask_storeu_ps(out, (__mmask16)first(lanes, 16), (__m512)v);
}
INLINE void put_some(double* out, int lanes, Vector<double> v) {
    _mm512_mask_storeu_pd(out, (__mmask8)first(lanes, 8), (__m512d)v);
}
template <class T>
INLINE Group<T> read(const T* x, int lanes, T absent) {
    constexpr int n = VECTOR<T>;
    Vector<T> v = Vector<T>{} + absent;
    return Group<T>{some(x, lanes, v), some(x + n, lanes - n, v), some(x + 2 * n, lanes - 2 * n, v),
                    some(x + 3 * n, lanes - 3 * n, v)};
}
template <class T>
INLINE void write(T* out, const Group<T>& g, int lanes) {
    constexpr int n = VECTOR<T>;
    if (lanes == LANES<T>) return write<T>(out, g);
    put_some(out, lanes, g.a);
    put_some(out + n, lanes - n, g.b);
    put_some(out + 2 * n, lanes - 2 * n, g.c);
    put_some(out + 3 * n, lanes - 3 * n, g.d);
}
#else
template <class T>
INLINE Group<T> read(const T* x, int lanes, T absent) {
    T some[LANES<T>];
    write<T>(some, all<T>(absent));
    __builtin_memcpy(some, x, lanes * sizeof(T));
    return read<T>(some);
}
template <class T>
INLINE void write(T* out, const Group<T>& g, int lanes) {
    if (lanes == LANES<T>) return write<T>(out, g);
    T some[LANES<T>];
    write<T>(some, g);
    __builtin_memcpy(out, some, lanes * sizeof(T));
}
#endif

// Steps through an array, or through several of one layout. All steps but the last have `lanes` lanes.
template <class T>
struct Walk {
    long start, stride, steps;  // in elements
    int lanes, last, columns;
    long size;  // of the array: up to where more lanes than wanted can be read

    long offset(long i) const { return start + i * stride; }
    int lanes_of(long i) const { return i == steps - 1 ? last : lanes; }

    // Up to which step whole groups can be read: lanes beyond those of the step then belong to nothing that is asked
    // for.
    long whole(long to) const {
        long limit = size - LANES<T> < start ? 0 : (size - LANES<T> - start) / stride + 1;
        if (last != lanes && limit > steps - 1) limit = steps - 1;
        return limit < to ? limit : to;
    }
};

// body(i, group) for each step; lanes that are not there are `absent`.
template <class T, class Body>
INLINE void each(const Walk<T>& w, long from, long to, T absent, Body body, const T* x) {
    long whole = w.whole(to), i = from;
    for (; i < whole; i++) body(i, read<T>(x + w.offset(i)));
    for (; i < to; i++) body(i, read<T>(x + w.offset(i), w.lanes_of(i), absent));
}

// body(i, group of x, group of g), likewise.
template <class T, class Body>
INLINE void each(const Walk<T>& w, long from, long to, T absent, Body body, const T* x, const T* g) {
    long whole = w.whole(to), i = from;
    for (; i < whole; i++) body(i, read<T>(x + w.offset(i)), read<T>(g + w.offset(i)));
    for (; i < to; i++) {
        int lanes = w.lanes_of(i);
        body(i, read<T>(x + w.offset(i), lanes, absent), read<T>(g + w.offset(i), lanes, absent));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of lanes

template <class T>
struct Sum;

template <>
struct Sum<float> {  // lane j of a vector is in word j of the first sum, or of the second
    Doubles a[2], b[2], c[2], d[2];
    INLINE Sum() : a{}, b{}, c{}, d{} {}
    static INLINE void add_one(Doubles* s, Vector<float> v) {
#if BYTES == 64  // in these words, because GCC converts by halves of halves
        s[0] += (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
        s[1] += (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif BYTES == 32
        s[0] += (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
        s[1] += (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
        Kind<float>::Half low, high;
        __builtin_memcpy(&low, &v, BYTES / 2);
        __builtin_memcpy(&high, (const char*)&v + BYTES / 2, BYTES / 2);
        s[0] += __builtin_convertvector(low, Doubles);
        s[1] += __builtin_convertvector(high, Doubles);
#endif
    }
    INLINE void add(const Group<float>& g) {
        add_one(a, g.a);
        add_one(b, g.b);
        add_one(c, g.c);
        add_one(d, g.d);
    }
    INLINE double high(int lane) const { return ((const double*)this)[lane]; }
};

template <>
struct Sum<double> {
    Doubles a, b, c, d, lost_a, lost_b, lost_c, lost_d;
    INLINE Sum() : a{}, b{}, c{}, d{}, lost_a{}, lost_b{}, lost_c{}, lost_d{} {}
    static INLINE void add_one(Doubles& s, Doubles& lost, Doubles v) {
        Doubles t = s + v, b = t - s;
        lost += (s - (t - b)) + (v - b);
        s = t;
    }
    INLINE void add(const Group<double>& g) {
        add_one(a, lost_a, g.a);
        add_one(b, lost_b, g.b);
        add_one(c, lost_c, g.c);
        add_one(d, lost_d, g.d);
    }
    INLINE double high(int lane) const { return ((const double*)this)[lane]; }
    INLINE double low(int lane) const { return ((const double*)this)[LANES<double> + lane]; }
};

struct Words {  // an unevaluated sum
    double high = 0, low = 0;
    INLINE void add(double x) {
        double t = high + x, b = t - high;
        low += (high - (t - b)) + (x - b);
        high = t;
    }
};

template <class T>
static Words total(const Sum<T>& sum, int column, int columns, int lanes);

template <>
Words total<float>(const Sum<float>& sum, int column, int columns, int lanes) {
    Words w;
    if (columns == 1 && lanes == LANES<float>) {
        Doubles s = ((sum.a[0] + sum.a[1]) + (sum.b[0] + sum.b[1])) + ((sum.c[0] + sum.c[1]) + (sum.d[0] + sum.d[1]));
        w.high = across<double>(s, [](Doubles a, Doubles b) INLINE_LAMBDA { return a + b; });
        return w;
    }
    for (int lane = column; lane < lanes; lane += columns) w.high += sum.high(lane);
    return w;
}

template <>
Words total<double>(const Sum<double>& sum, int column, int columns, int lanes) {
    Words w;
    if (columns == 1 && lanes == LANES<double>) {
        Doubles s = sum.a, lost = (sum.lost_a + sum.lost_b) + (sum.lost_c + sum.lost_d);
        Sum<double>::add_one(s, lost, sum.b);
        Sum<double>::add_one(s, lost, sum.c);
        Sum<double>::add_one(s, lost, sum.d);
        for (int j = 0; j < VECTOR<double>; j++) {
            w.add(s[j]);
            w.low += lost[j];
        }
        return w;
    }
    for (int lane = column; lane < lanes; lane += columns) {
        w.add(sum.high(lane));
        w.low += sum.low(lane);
    }
    return w;
}

// Of columns, what each lane is to be given.
template <class T>
static Group<T> spread(const double* of_column, int columns, int lanes) {
    if (columns == 1) return all<T>((T)of_column[0]);
    T lane_of[LANES<T>] = {};
    for (int lane = 0, column = 0; lane < lanes; lane++, column = column + 1 == columns ? 0 : column + 1)
        lane_of[lane] = (T)of_column[column];
    return read<T>(lane_of);
}
