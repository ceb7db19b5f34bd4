// Rows reduced by groups of lanes. Included once for each instruction set, inside a namespace of its own.
//
// An array is (outer, n, inner), contiguous, and reduced along n. A `Walk` sees a part of it as steps of up to four
// vectors that lie side by side: some of the columns of a wide array, several steps of a narrow one (lane j is then
// column j modulo the width), stretches of one long row, or many short rows that were turned.
//
// The state of a row is its maximum m and the sum of all exponentials but the largest, of x - shift, where the shift is 0
// if m is between 1 and half of exp's range, and m elsewhere: x - m would cost the entries near 0 their digits exactly
// where m, that large, may hold no mass. Sums of floats are made in double, sums of doubles in two words.

template <class T> using Vector = typename Kind<T>::V;

constexpr int Q = 4;
template <class T> constexpr int VECTOR = BYTES / sizeof(T);
template <class T> constexpr int LANES = Q * VECTOR<T>;
constexpr long CHUNK = (1 << 16) / (Q * BYTES);  // steps, 64 KiB: what was looked at for its maximum is near when it is summed

template <class T> struct Group {
    Vector<T> a, b, c, d;  // by name, because a compiler keeps an array in memory
};

template <class T, class F, class... Groups> INLINE Group<T> map(F f, const Groups &...g) {
    return Group<T>{f(g.a...), f(g.b...), f(g.c...), f(g.d...)};
}

template <class T> INLINE Group<T> all(T value) {
    Vector<T> v = Vector<T>{} + value;
    return Group<T>{v, v, v, v};
}

template <class T> INLINE Vector<T> vector_at(const T *x) {
    Vector<T> v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
}

// All lanes of a vector by f, in halves.
template <class T, class F> INLINE T across(Vector<T> v, F f) {
    for (int h = VECTOR<T> / 2; h; h /= 2) {
        typename Kind<T>::I from{};
        for (int j = 0; j < VECTOR<T>; j++) from[j] = j ^ h;
        v = f(v, __builtin_shuffle(v, from));
    }
    return v[0];
}

template <class T> INLINE Group<T> read(const T *x) {
    constexpr int n = VECTOR<T>;
    return Group<T>{vector_at<T>(x), vector_at<T>(x + n), vector_at<T>(x + 2 * n), vector_at<T>(x + 3 * n)};
}

template <class T> INLINE void write(T *out, const Group<T> &g) {
    constexpr int n = VECTOR<T>;
    __builtin_memcpy(out, &g.a, BYTES);
    __builtin_memcpy(out + n, &g.b, BYTES);
    __builtin_memcpy(out + 2 * n, &g.c, BYTES);
    __builtin_memcpy(out + 3 * n, &g.d, BYTES);
}

// The first lanes of a group; those that are not there are `absent`.
#if BYTES == 64
INLINE unsigned first(int lanes, int of) { return lanes >= of ? (1u << of) - 1 : lanes > 0 ? (1u << lanes) - 1 : 0; }
INLINE Vector<float> some(const float *x, int lanes, Vector<float> absent) {
    return (Vector<float>)_mm512_mask_loadu_ps((__m512)absent, (__mmask16)first(lanes, 16), x);
}
INLINE Vector<double> some(const double *x, int lanes, Vector<double> absent) {
    return (Vector<double>)_mm512_mask_loadu_pd((__m512d)absent, (__mmask8)first(lanes, 8), x);
}
INLINE void put_some(float *out, int lanes, Vector<float> v) {
    _mm512_mask_storeu_ps(out, (__mmask16)first(lanes, 16), (__m512)v);
}
INLINE void put_some(double *out, int lanes, Vector<double> v) {
    _mm512_mask_storeu_pd(out, (__mmask8)first(lanes, 8), (__m512d)v);
}
template <class T> INLINE Group<T> read(const T *x, int lanes, T absent) {
    constexpr int n = VECTOR<T>;
    Vector<T> v = Vector<T>{} + absent;
    return Group<T>{some(x, lanes, v), some(x + n, lanes - n, v), some(x + 2 * n, lanes - 2 * n, v), some(x + 3 * n, lanes - 3 * n, v)};
}
template <class T> INLINE void write(T *out, const Group<T> &g, int lanes) {
    constexpr int n = VECTOR<T>;
    if (lanes == LANES<T>) return write<T>(out, g);
    put_some(out, lanes, g.a);
    put_some(out + n, lanes - n, g.b);
    put_some(out + 2 * n, lanes - 2 * n, g.c);
    put_some(out + 3 * n, lanes - 3 * n, g.d);
}
#else
template <class T> INLINE Group<T> read(const T *x, int lanes, T absent) {
    T some[LANES<T>];
    write<T>(some, all<T>(absent));
    __builtin_memcpy(some, x, lanes * sizeof(T));
    return read<T>(some);
}
template <class T> INLINE void write(T *out, const Group<T> &g, int lanes) {
    if (lanes == LANES<T>) return write<T>(out, g);
    T some[LANES<T>];
    write<T>(some, g);
    __builtin_memcpy(out, some, lanes * sizeof(T));
}
#endif

// Steps through an array, or through several of one layout. All steps but the last have `lanes` lanes.
template <class T> struct Walk {
    long start, stride, steps;  // in elements
    int lanes, last, columns;
    long size;  // of the array: up to where more lanes than wanted can be read

    long offset(long i) const { return start + i * stride; }
    int lanes_of(long i) const { return i == steps - 1 ? last : lanes; }
    int folds() const { return lanes / columns; }

    // Up to which step whole groups can be read: lanes beyond those of the step then belong to nothing that is asked for.
    long whole(long to) const {
        long limit = size - LANES<T> < start ? 0 : (size - LANES<T> - start) / stride + 1;
        if (last != lanes && limit > steps - 1) limit = steps - 1;
        return limit < to ? limit : to;
    }
};

// body(i, group) for each step; lanes that are not there are `absent`.
template <class T, class Body> INLINE void each(const Walk<T> &w, long from, long to, T absent, Body body, const T *x) {
    long whole = w.whole(to), i = from;
    for (; i < whole; i++) body(i, read<T>(x + w.offset(i)));
    for (; i < to; i++) body(i, read<T>(x + w.offset(i), w.lanes_of(i), absent));
}

// body(i, group of x, group of g), likewise.
template <class T, class Body>
INLINE void each(const Walk<T> &w, long from, long to, T absent, Body body, const T *x, const T *g) {
    long whole = w.whole(to), i = from;
    for (; i < whole; i++) body(i, read<T>(x + w.offset(i)), read<T>(g + w.offset(i)));
    for (; i < to; i++) {
        int lanes = w.lanes_of(i);
        body(i, read<T>(x + w.offset(i), lanes, absent), read<T>(g + w.offset(i), lanes, absent));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of lanes

template <class T> struct Sum;

template <> struct Sum<float> {  // lane j of a vector is in word j of the first sum, or of the second
    Doubles a[2], b[2], c[2], d[2];
    INLINE Sum() : a{}, b{}, c{}, d{} {}
    static INLINE void add_one(Doubles *s, Vector<float> v) {
#if BYTES == 64  // in these words, because GCC converts by halves of halves
        s[0] += (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
        s[1] += (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif BYTES == 32
        s[0] += (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
        s[1] += (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
        Kind<float>::Half low, high;
        __builtin_memcpy(&low, &v, BYTES / 2);
        __builtin_memcpy(&high, (const char *)&v + BYTES / 2, BYTES / 2);
        s[0] += __builtin_convertvector(low, Doubles);
        s[1] += __builtin_convertvector(high, Doubles);
#endif
    }
    INLINE void add(const Group<float> &g) {
        add_one(a, g.a);
        add_one(b, g.b);
        add_one(c, g.c);
        add_one(d, g.d);
    }
    INLINE double high(int lane) const { return ((const double *)this)[lane]; }
};

template <> struct Sum<double> {
    Doubles a, b, c, d, lost_a, lost_b, lost_c, lost_d;
    INLINE Sum() : a{}, b{}, c{}, d{}, lost_a{}, lost_b{}, lost_c{}, lost_d{} {}
    static INLINE void add_one(Doubles &s, Doubles &lost, Doubles v) {
        Doubles t = s + v, b = t - s;
        lost += (s - (t - b)) + (v - b);
        s = t;
    }
    INLINE void add(const Group<double> &g) {
        add_one(a, lost_a, g.a);
        add_one(b, lost_b, g.b);
        add_one(c, lost_c, g.c);
        add_one(d, lost_d, g.d);
    }
    INLINE double high(int lane) const { return ((const double *)this)[lane]; }
    INLINE double low(int lane) const { return ((const double *)this)[LANES<double> + lane]; }
};

struct Words {  // an unevaluated sum
    double high = 0, low = 0;
    INLINE void add(double x) {
        double t = high + x, b = t - high;
        low += (high - (t - b)) + (x - b);
        high = t;
    }
};

template <class T> static Words total(const Sum<T> &sum, int column, int columns, int lanes);

template <> Words total<float>(const Sum<float> &sum, int column, int columns, int lanes) {
    Words w;
    if (columns == 1 && lanes == LANES<float>) {
        Doubles s = ((sum.a[0] + sum.a[1]) + (sum.b[0] + sum.b[1])) + ((sum.c[0] + sum.c[1]) + (sum.d[0] + sum.d[1]));
        w.high = across<double>(s, [](Doubles a, Doubles b) INLINE_LAMBDA { return a + b; });
        return w;
    }
    for (int lane = column; lane < lanes; lane += columns) w.high += sum.high(lane);
    return w;
}

template <> Words total<double>(const Sum<double> &sum, int column, int columns, int lanes) {
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
template <class T> static Group<T> spread(const double *of_column, int columns, int lanes) {
    if (columns == 1) return all<T>((T)of_column[0]);
    T lane_of[LANES<T>] = {};
    for (int lane = 0, column = 0; lane < lanes; lane++, column = column + 1 == columns ? 0 : column + 1)
        lane_of[lane] = (T)of_column[column];
    return read<T>(lane_of);
}

// ---------------------------------------------------------------------------------------------------------------------
// The state of rows

template <class T> INLINE bool in_range(double m) { return m >= 1 && m <= (sizeof(T) == 4 ? 39.9 : 319.4); }

// What is taken from entries before exp, of a row with maximum m.
template <class T> INLINE double shift_of(double m) { return in_range<T>(m) || m - m != 0 ? 0 : m; }

// exp(m - shift), in the very digits that it has in the sum.
template <class T> INLINE double top_of(double m) {
    return in_range<T>(m) ? exp_of<T>(typename Kind<T>::V{} + (T)m)[0] : 1;
}

template <class T> struct State {
    // of columns: exp(m - shift), and the others' sum, in two words
    alignas(64) double m[LANES<T>], top[LANES<T>], rest[LANES<T>], low[LANES<T>];
};

template <class T> static Group<T> shifts(const double *m, int columns, int lanes) {
    alignas(64) double c[LANES<T>];
    for (int column = 0; column < columns; column++) c[column] = shift_of<T>(m[column]);
    return spread<T>(c, columns, lanes);
}

template <class T> INLINE Group<T> exp_of_group(const Group<T> &x, const Group<T> &shift) {
    return map<T>([](Vector<T> x, Vector<T> shift) INLINE_LAMBDA { return exp_of<T>(x - shift); }, x, shift);
}

template <class T> INLINE Vector<T> larger(Vector<T> a, Vector<T> b) { return b > a ? b : a; }  // a if b is NaN

template <class T> static void maxima(const Walk<T> &w, const T *x, long from, long to, double *m) {
    Group<T> best = all<T>(T(-__builtin_inf()));
    each<T>(w, from, to, T(-__builtin_inf()), [&](long, const Group<T> &g) INLINE_LAMBDA {
        best = map<T>(larger<T>, best, g);  // not NaN: that is seen in the sum
    }, x);
    if (w.columns == 1 && w.lanes == LANES<T>) {
        m[0] = across<T>(larger<T>(larger<T>(best.a, best.b), larger<T>(best.c, best.d)), larger<T>);
        return;
    }
    T of_lane[LANES<T>];
    write<T>(of_lane, best);
    for (int column = 0; column < w.columns; column++) m[column] = of_lane[column];
    for (int lane = w.columns, column = 0; lane < w.lanes; lane++, column = column + 1 == w.columns ? 0 : column + 1)
        if (of_lane[lane] > m[column]) m[column] = of_lane[lane];
}

// The others' sum once more, without the largest: where they are so small that beside it they lost too much.
template <class T> NOINLINE void sum_apart(
    const Walk<T> &w, const T *x, long from, long to, const Group<T> &shift, State<T> &state, const bool *few) {
    Group<T> most = spread<T>(state.m, w.columns, w.lanes);
    Sum<T> sum, tied;
    each<T>(w, from, to, T(-__builtin_inf()), [&](long, const Group<T> &g) INLINE_LAMBDA {
        auto apart = [](Vector<T> e, Vector<T> x, Vector<T> most) INLINE_LAMBDA { return x == most ? Vector<T>{} : e; };
        auto ties = [](Vector<T> x, Vector<T> most) INLINE_LAMBDA { return x == most ? Vector<T>{} + T(1) : Vector<T>{}; };
        Group<T> e = map<T>(apart, exp_of_group(g, shift), g, most), one = map<T>(ties, g, most);
        sum.add(e);
        tied.add(one);
    }, x);
    for (int column = 0; column < w.columns; column++) {
        if (!few[column]) continue;
        Words s = total<T>(sum, column, w.columns, w.lanes);
        s.add((total<T>(tied, column, w.columns, w.lanes).high - 1) * state.top[column]);
        state.rest[column] = s.high, state.low[column] = s.low;
    }
}

// Rows with +inf in them come to that, or to NaN.
template <class T> NOINLINE void look_for_nan(
    const Walk<T> &w, const T *x, long from, long to, State<T> &state) {
    for (int column = 0; column < w.columns; column++)
        if (state.m[column] == __builtin_inf()) state.rest[column] = state.low[column] = 0;
    for (long i = from; i < to; i++)
        for (int lane = 0; lane < w.lanes_of(i); lane++)
            if (x[w.offset(i) + lane] != x[w.offset(i) + lane]) state.rest[lane % w.columns] = __builtin_nan("");
}

// Of one chunk. What it exponentiates it gives to `keep`.
template <class T, class Keep>
INLINE void chunk_state(const Walk<T> &w, const T *x, long from, long to, State<T> &state, Keep keep) {
    maxima<T>(w, x, from, to, state.m);
    Group<T> shift = shifts<T>(state.m, w.columns, w.lanes);
    Sum<T> sum;
    each<T>(w, from, to, T(-__builtin_inf()), [&](long i, const Group<T> &g) INLINE_LAMBDA {
        Group<T> e = exp_of_group(g, shift);
        sum.add(e);
        keep(i, e);
    }, x);
    T top[LANES<T>];
    write<T>(top, exp_of_group(spread<T>(state.m, w.columns, w.columns), shift));
    bool few[LANES<T>], any = false, infinite = false;
    for (int column = 0; column < w.columns; column++) {
        Words s = total<T>(sum, column, w.columns, w.lanes);
        double t = state.m[column] - state.m[column] == 0 ? top[column] : 0;
        state.top[column] = t;
        s.add(-t);
        state.rest[column] = s.high, state.low[column] = s.low;
        any |= few[column] = s.high + s.low < t * (sizeof(T) == 4 ? 1.6e-8 * (to - from + 8) : 1e-9);
        infinite |= state.m[column] == __builtin_inf();
    }
    if (infinite) look_for_nan<T>(w, x, from, to, state);
    if (any) sum_apart<T>(w, x, from, to, shift, state, few);
}

template <class T> static void merge(int columns, State<T> &one, const State<T> &other) {
    for (int column = 0; column < columns; column++) {
        double a = one.m[column], b = other.m[column];
        if (!(a - a == 0 && b - b == 0)) {  // NaN stays in the rests
            double undefined = (one.rest[column] - one.rest[column]) + (other.rest[column] - other.rest[column]);
            bool first = a > b || b == -__builtin_inf();
            const State<T> &kept = first ? one : other;
            one.m[column] = kept.m[column], one.top[column] = kept.top[column];
            one.rest[column] = kept.rest[column] + undefined, one.low[column] = kept.low[column];
            continue;
        }
        bool first = a >= b;
        const State<T> &more = first ? one : other, &less = first ? other : one;
        double scale = __builtin_exp(shift_of<T>(less.m[column]) - shift_of<T>(more.m[column]));
        Words rest{more.rest[column], more.low[column]};
        rest.add(less.rest[column] * scale);
        rest.add(less.top[column] * scale);
        rest.low += less.low[column] * scale;
        one.m[column] = first ? a : b, one.top[column] = more.top[column];
        one.rest[column] = rest.high, one.low[column] = rest.low;
    }
}

// Of the steps from one to another, in chunks.
template <class T> static void state_of(const Walk<T> &w, const T *x, long from, long to, State<T> &state) {
    auto nothing = [](long, const Group<T> &) INLINE_LAMBDA {};
    chunk_state<T>(w, x, from, from + CHUNK < to ? from + CHUNK : to, state, nothing);
    for (long i = from + CHUNK; i < to; i += CHUNK) {
        State<T> more;
        chunk_state<T>(w, x, i, i + CHUNK < to ? i + CHUNK : to, more, nothing);
        merge<T>(w.columns, state, more);
    }
}

// log(1 + rest/top), of all columns: log of the sum of exp(x - m).
template <class T> static void log_sums(int columns, const State<T> &state, double *log_sum) {
    for (int column = 0; column < columns; column += VECTOR<double>) {
        Doubles top, rest, low;
        __builtin_memcpy(&top, state.top + column, BYTES);
        __builtin_memcpy(&rest, state.rest + column, BYTES);
        __builtin_memcpy(&low, state.low + column, BYTES);
        Doubles v = log1p_of((rest + low) / (top == 0.0 ? Doubles{} + 1.0 : top));
        __builtin_memcpy(log_sum + column, &v, BYTES);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is computed. Each gathers what is to be known of a part of some rows, joins such parts, prepares what the lanes
// need of it, and gives a step's results. Those that can, write a part of one chunk as they gather.

struct Rows { double m, rest; };

template <class T> struct Operands {
    static constexpr bool fuses = false, reduces = false, segments = true, pairs = false;  // of x and g
    const T *x, *g;  // what was reduced, and beside it a cotangent
    T *out;
    Rows *rows;  // of each row, its maximum and the others' sum: for derivatives, if asked for
};

template <class T> static void remember(const Walk<T> &w, long row, const State<T> &s, Rows *rows) {
    if (!rows) return;
    for (int column = 0; column < w.columns; column++)
        rows[row + column] = Rows{s.m[column], s.rest[column] + s.low[column]};
}

template <class T> struct LogSumExp : Operands<T> {
    typedef State<T> Known;
    struct Ready {};
    static constexpr bool reduces = true;

    void gather(const Walk<T> &w, long, long from, long to, Known &s) const { state_of<T>(w, this->x, from, to, s); }
    void join(const Walk<T> &w, Known &one, const Known &other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T> &w, long row, const Known &s, Ready &) const {
        alignas(64) double log_sum[LANES<T>];
        log_sums<T>(w.columns, s, log_sum);
        for (int column = 0; column < w.columns; column++) this->out[row + column] = (T)(s.m[column] + log_sum[column]);
        remember<T>(w, row, s, this->rows);
    }
    static INLINE Group<T> result(const Group<T> &x, const Ready &) { return x; }
};

template <class T> struct Softmax : Operands<T> {
    typedef State<T> Known;
    struct Ready { Group<T> shift, factor; };
    static constexpr bool fuses = true;

    void gather(const Walk<T> &w, long, long from, long to, Known &s) const { state_of<T>(w, this->x, from, to, s); }
    void gather_and_keep(const Walk<T> &w, Known &s) const {
        T *out = this->out;
        chunk_state<T>(w, this->x, 0, w.steps, s, [&](long i, const Group<T> &e) INLINE_LAMBDA {
            write<T>(out + w.offset(i), e, w.lanes_of(i));
        });
    }
    void join(const Walk<T> &w, Known &one, const Known &other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T> &w, long row, const Known &s, Ready &ready) const {
        alignas(64) double factor[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            double undefined = s.m[column] - s.m[column];  // in a row of nothing but -inf, or with +inf
            factor[column] = 1 / (s.rest[column] + s.low[column] + s.top[column]) + undefined;
        }
        ready.shift = shifts<T>(s.m, w.columns, w.lanes);
        ready.factor = spread<T>(factor, w.columns, w.lanes);
        remember<T>(w, row, s, this->rows);
    }
    static INLINE Group<T> result(const Group<T> &x, const Ready &ready) {
        return result_of_kept(exp_of_group(x, ready.shift), ready);
    }
    static INLINE Group<T> result_of_kept(const Group<T> &e, const Ready &ready) {
        return map<T>([](Vector<T> e, Vector<T> factor) INLINE_LAMBDA { return e * factor; }, e, ready.factor);
    }
};

template <class T> struct LogSoftmax : Operands<T> {
    typedef State<T> Known;
    struct Ready { Group<T> m, log_sum; };

    void gather(const Walk<T> &w, long, long from, long to, Known &s) const { state_of<T>(w, this->x, from, to, s); }
    void join(const Walk<T> &w, Known &one, const Known &other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T> &w, long row, const Known &s, Ready &ready) const {
        alignas(64) double log_sum[LANES<T>];
        log_sums<T>(w.columns, s, log_sum);
        for (int column = 0; column < w.columns; column++) log_sum[column] += s.m[column] - s.m[column];
        ready.m = spread<T>(s.m, w.columns, w.lanes);
        ready.log_sum = spread<T>(log_sum, w.columns, w.lanes);
        remember<T>(w, row, s, this->rows);
    }
    static INLINE Group<T> result(const Group<T> &x, const Ready &ready) {
        auto f = [](Vector<T> x, Vector<T> m, Vector<T> log_sum) INLINE_LAMBDA { return (x - m) - log_sum; };
        return map<T>(f, x, ready.m, ready.log_sum);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Derivatives: of p = softmax(x), given p or what is known of the rows of x

// v = p sum(t) - t with t = p (r - g), for any r: in rows with a dominant entry its g, so that its own t is 0 and nothing is
// the difference from the 1 that it holds most of.
template <class T> struct SoftmaxDerivative : Operands<T> {  // x is p
    struct Known { alignas(64) double r[LANES<T>], sum[LANES<T>], low[LANES<T>]; };
    struct Ready { Group<T> r, sum; };
    static constexpr bool pairs = true, segments = false;  // the r of one would be needed in all

    bool pass(const Walk<T> &w, long from, long to, const Group<T> &r, Known &known) const {
        Sum<T> sum;
        Group<T> found = all<T>(T(0));
        auto dominant = [](Vector<T> p, Vector<T> g, Vector<T> found) INLINE_LAMBDA { return p > T(0.5) ? g : found; };
        auto term = [](Vector<T> p, Vector<T> g, Vector<T> r) INLINE_LAMBDA { return p * (r - g); };
        each<T>(w, from, to, T(0), [&](long, const Group<T> &p, const Group<T> &g) INLINE_LAMBDA {
            found = map<T>(dominant, p, g, found);
            sum.add(map<T>(term, p, g, r));
        }, this->x, this->g);
        T found_in[LANES<T>];
        write<T>(found_in, found);
        bool any = false;
        for (int column = 0; column < w.columns; column++) {
            Words s = total<T>(sum, column, w.columns, w.lanes);
            known.sum[column] = s.high, known.low[column] = s.low;
            known.r[column] = 0;
            for (int lane = column; lane < w.lanes; lane += w.columns) known.r[column] += found_in[lane];
            any |= known.r[column] != 0;
        }
        return any;
    }
    void gather(const Walk<T> &w, long, long from, long to, Known &known) const {
        if (pass(w, from, to, all<T>(T(0)), known)) {
            double r[LANES<T>];
            __builtin_memcpy(r, known.r, sizeof r);
            pass(w, from, to, spread<T>(r, w.columns, w.lanes), known);
        }
    }
    void join(const Walk<T> &, Known &, const Known &) const {}
    void prepare(const Walk<T> &w, long, Known &known, Ready &ready) const {
        for (int column = 0; column < w.columns; column++) known.sum[column] += known.low[column];
        ready.r = spread<T>(known.r, w.columns, w.lanes);
        ready.sum = spread<T>(known.sum, w.columns, w.lanes);
    }
    static INLINE Group<T> result(const Group<T> &p, const Group<T> &g, const Ready &ready) {
        auto f = [](Vector<T> p, Vector<T> g, Vector<T> r, Vector<T> sum) INLINE_LAMBDA { return p * (sum - (r - g)); };
        return map<T>(f, p, g, ready.r, ready.sum);
    }
};

// v = g - p sum(g), which at a dominant entry is (1 - p) sum(g) - (the sum of the other g), and 1 - p is the others' share.
template <class T> struct LogSoftmaxDerivative : Operands<T> {
    struct Known { alignas(64) double others[LANES<T>], low[LANES<T>], most[LANES<T>]; };
    struct Ready { Group<T> shift, factor, dominant, at_dominant; };
    static constexpr bool pairs = true;

    static INLINE bool dominated(const Rows &known) { return known.rest < top_of<T>(known.m); }
    Group<T> dominants(const Walk<T> &w, long row) const {
        alignas(64) double m[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows &known = this->rows[row + column];
            m[column] = dominated(known) ? known.m : __builtin_nan("");
        }
        return spread<T>(m, w.columns, w.lanes);
    }
    void gather(const Walk<T> &w, long row, long from, long to, Known &known) const {
        bool any = false;
        for (int column = 0; column < w.columns; column++) any |= dominated(this->rows[row + column]);
        Sum<T> others, most;
        if (any) {
            Group<T> dominant = dominants(w, row);
            auto at = [](Vector<T> x, Vector<T> g, Vector<T> most) INLINE_LAMBDA { return x == most ? g : Vector<T>{}; };
            auto beside = [](Vector<T> x, Vector<T> g, Vector<T> most) INLINE_LAMBDA { return x == most ? Vector<T>{} : g; };
            each<T>(w, from, to, T(0), [&](long, const Group<T> &x, const Group<T> &g) INLINE_LAMBDA {
                others.add(map<T>(beside, x, g, dominant));
                most.add(map<T>(at, x, g, dominant));
            }, this->x, this->g);
        } else {
            each<T>(w, from, to, T(0), [&](long, const Group<T> &g) INLINE_LAMBDA { others.add(g); }, this->g);
        }
        for (int column = 0; column < w.columns; column++) {
            Words s = total<T>(others, column, w.columns, w.lanes);
            known.others[column] = s.high, known.low[column] = s.low;
            known.most[column] = any ? total<T>(most, column, w.columns, w.lanes).high : 0;
        }
    }
    void join(const Walk<T> &w, Known &one, const Known &other) const {
        for (int column = 0; column < w.columns; column++) {
            Words s{one.others[column], one.low[column]};
            s.add(other.others[column]);
            one.others[column] = s.high, one.low[column] = s.low + other.low[column];
            one.most[column] += other.most[column];
        }
    }
    void prepare(const Walk<T> &w, long row, const Known &known, Ready &ready) const {
        alignas(64) double m[LANES<T>], factor[LANES<T>], at_dominant[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows &known_row = this->rows[row + column];
            m[column] = known_row.m;
            double top = top_of<T>(m[column]);
            double others = known.others[column] + known.low[column], all = others + known.most[column];
            factor[column] = all / (top + known_row.rest) + (m[column] - m[column]);
            at_dominant[column] = known_row.rest / (top + known_row.rest) * all - others;
        }
        ready.shift = shifts<T>(m, w.columns, w.lanes);
        ready.factor = spread<T>(factor, w.columns, w.lanes);
        ready.dominant = dominants(w, row);
        ready.at_dominant = spread<T>(at_dominant, w.columns, w.lanes);
    }
    static INLINE Group<T> result(const Group<T> &x, const Group<T> &g, const Ready &ready) {
        auto f = [](Vector<T> x, Vector<T> g, Vector<T> shift, Vector<T> factor, Vector<T> dominant, Vector<T> there) INLINE_LAMBDA {
            return x == dominant ? there : g - exp_of<T>(x - shift) * factor;
        };
        return map<T>(f, x, g, ready.shift, ready.factor, ready.dominant, ready.at_dominant);
    }
};

// v = p g with one g for each row: 0 on dead rows, and shared by the +inf of a row that has any.
template <class T> struct LogSumExpDerivative : Operands<T> {
    struct Known { alignas(64) double infinite[LANES<T>]; };
    struct Ready { Group<T> shift, share, g, infinite, at_infinite; };

    void gather(const Walk<T> &w, long row, long from, long to, Known &known) const {
        for (int column = 0; column < w.columns; column++) {
            known.infinite[column] = 0;
            if (this->rows[row + column].m != __builtin_inf()) continue;
            for (long i = from; i < to; i++)
                for (int lane = column; lane < w.lanes_of(i); lane += w.columns)
                    known.infinite[column] += this->x[w.offset(i) + lane] == __builtin_inf();
        }
    }
    void join(const Walk<T> &w, Known &one, const Known &other) const {
        for (int column = 0; column < w.columns; column++) one.infinite[column] += other.infinite[column];
    }
    void prepare(const Walk<T> &w, long row, const Known &known, Ready &ready) const {
        alignas(64) double m[LANES<T>], share[LANES<T>], g[LANES<T>], infinite[LANES<T>], at_infinite[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows &known_row = this->rows[row + column];
            m[column] = known_row.m, g[column] = this->g[row + column];
            double top = top_of<T>(m[column]);
            bool finite = m[column] - m[column] == 0;
            share[column] = finite ? 1 / (top + known_row.rest) : known_row.rest;  // of no finite entry; or NaN
            infinite[column] = known.infinite[column] ? __builtin_inf() : __builtin_nan("");
            at_infinite[column] = known.infinite[column] ? g[column] / known.infinite[column] + known_row.rest : 0;
        }
        ready.shift = shifts<T>(m, w.columns, w.lanes);
        ready.share = spread<T>(share, w.columns, w.lanes);
        ready.g = spread<T>(g, w.columns, w.lanes);
        ready.infinite = spread<T>(infinite, w.columns, w.lanes);
        ready.at_infinite = spread<T>(at_infinite, w.columns, w.lanes);
    }
    static INLINE Group<T> result(const Group<T> &x, const Ready &ready) {
        auto f = [](Vector<T> x, Vector<T> shift, Vector<T> share, Vector<T> g, Vector<T> infinite, Vector<T> there) INLINE_LAMBDA {
            return x == infinite ? there : exp_of<T>(x - shift) * share * g;
        };
        return map<T>(f, x, ready.shift, ready.share, ready.g, ready.infinite, ready.at_infinite);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// An array, cut into what is worked on at once

struct Shape { long outer, n, inner; };

constexpr long SHORT = 64;  // rows of up to so many entries are turned

template <class T> struct Cut {
    Shape shape;
    bool turned;
    long tiles, units;  // of columns; and in all

    explicit Cut(Shape s) : shape(s), turned(s.inner == 1 && s.n <= SHORT && s.outer > 1) {
        tiles = turned ? 1 : (s.inner + LANES<T> - 1) / LANES<T>;
        units = turned ? (s.outer + LANES<T> - 1) / LANES<T> : s.outer * tiles;
    }
    Walk<T> walk(long unit) const {
        long size = shape.outer * shape.n * shape.inner, start = unit / tiles * shape.n * shape.inner;
        if (shape.inner >= LANES<T>) {
            long from = unit % tiles * LANES<T>, left = shape.inner - from;
            int width = (int)(left < LANES<T> ? left : LANES<T>);
            return Walk<T>{start + from, shape.inner, shape.n, width, width, width, size};
        }
        long fold = LANES<T> / shape.inner < shape.n ? LANES<T> / shape.inner : shape.n;
        long steps = (shape.n + fold - 1) / fold, last = shape.n - (steps - 1) * fold;
        return Walk<T>{start, fold * shape.inner, steps, int(fold * shape.inner), int(last * shape.inner), (int)shape.inner, size};
    }
    long row(long unit) const { return unit / tiles * shape.inner + unit % tiles * LANES<T>; }
};

template <class Op, class T> static void put(const Op &op, const Walk<T> &w, long from, long to, const typename Op::Ready &ready) {
    if (Op::reduces) return;
    T *out = op.out;
    if constexpr (Op::pairs) {
        each<T>(w, from, to, T(0), [&](long i, const Group<T> &x, const Group<T> &g) INLINE_LAMBDA {
            write<T>(out + w.offset(i), Op::result(x, g, ready), w.lanes_of(i));
        }, op.x, op.g);
    } else {
        each<T>(w, from, to, T(0), [&](long i, const Group<T> &x) INLINE_LAMBDA {
            write<T>(out + w.offset(i), Op::result(x, ready), w.lanes_of(i));
        }, op.x);
    }
}

template <class Op, class T> static void work(const Op &op, const Walk<T> &w, long row) {
    typename Op::Known known;
    typename Op::Ready ready;
    if constexpr (Op::fuses) {
        if (w.steps <= CHUNK) {
            op.gather_and_keep(w, known);
            op.prepare(w, row, known, ready);
            T *out = op.out;
            each<T>(w, 0, w.steps, T(0), [&](long i, const Group<T> &e) INLINE_LAMBDA {
                write<T>(out + w.offset(i), Op::result_of_kept(e, ready), w.lanes_of(i));
            }, out);
            return;
        }
    }
    op.gather(w, row, 0, w.steps, known);
    op.prepare(w, row, known, ready);
    put<Op, T>(op, w, 0, w.steps, ready);
}

template <class T> INLINE void turn(const T *rows, T *columns, long count, long n) {
    for (long i = 0; i < count; i++)
        for (long j = 0; j < n; j++) columns[j * LANES<T> + i] = rows[i * n + j];
}

template <class T> INLINE void turn_back(const T *columns, T *rows, long count, long n) {
    for (long i = 0; i < count; i++)
        for (long j = 0; j < n; j++) rows[i * n + j] = columns[j * LANES<T> + i];
}

template <class Op, class T> static void work_turned(Op op, const Cut<T> &cut, long unit) {
    alignas(64) T x[SHORT * LANES<T>], g[SHORT * LANES<T>], out[SHORT * LANES<T>];
    long n = cut.shape.n, first = unit * LANES<T>, left = cut.shape.outer - first;
    int count = (int)(left < LANES<T> ? left : LANES<T>);
    Walk<T> w{0, LANES<T>, n, count, count, count, SHORT * LANES<T>};
    T *result = op.out + first * n;
    turn<T>(op.x + first * n, x, count, n);
    op.x = x;
    if (Op::pairs) {
        turn<T>(op.g + first * n, g, count, n);
        op.g = g;
    }
    if (!Op::reduces) op.out = out;
    work<Op, T>(op, w, first);
    if (!Op::reduces) turn_back<T>(out, result, count, n);
}
