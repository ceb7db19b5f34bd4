// The state of rows. Included once for each instruction set, inside a namespace of its own.
//
// It is the maximum m and the sum of all exponentials but the largest, of x - shift, where the shift is 0 if m is
// between 1 and half of exp's range, and m elsewhere: x - m would cost the entries near 0 their digits exactly where m,
// that large, may hold no mass. Sums of floats are made in double, sums of doubles in two words.

template <class T>
INLINE bool in_range(double m) {
    return m >= 1 && m <= (sizeof(T) == 4 ? 39.9 : 319.4);
}

// What is taken from entries before exp, of a row with maximum m.
template <class T>
INLINE double shift_of(double m) {
    return in_range<T>(m) || m - m != 0 ? 0 : m;
}

// exp(m - shift), in the very digits that it has in the sum.
template <class T>
INLINE double top_of(double m) {
    return in_range<T>(m) ? exp_of<T>(typename Kind<T>::V{} + (T)m)[0] : 1;
}

template <class T>
struct State {
    // of columns: exp(m - shift), and the others' sum, in two words
    alignas(64) double m[LANES<T>], top[LANES<T>], rest[LANES<T>], low[LANES<T>];
};

template <class T>
static Group<T> shifts(const double* m, int columns, int lanes) {
    alignas(64) double c[LANES<T>];
    for (int column = 0; column < columns; column++) c[column] = shift_of<T>(m[column]);
    return spread<T>(c, columns, lanes);
}

template <class T>
INLINE Group<T> exp_of_group(const Group<T>& x, const Group<T>& shift) {
    return map<T>([](Vector<T> x, Vector<T> shift) INLINE_LAMBDA { return exp_of<T>(x - shift); }, x, shift);
}

template <class T>
INLINE Vector<T> larger(Vector<T> a, Vector<T> b) {
    return b > a ? b : a;
}  // a if b is NaN

template <class T>
static void maxima(const Walk<T>& w, const T* x, long from, long to, double* m) {
    Group<T> best = all<T>(T(-__builtin_inf()));
    each<T>(
        w, from, to, T(-__builtin_inf()),
        [&](long, const Group<T>& g) INLINE_LAMBDA {
            best = map<T>(larger<T>, best, g);  // not NaN: that is seen in the sum
        },
        x);
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
template <class T>
NOINLINE void sum_apart(const Walk<T>& w, const T* x, long from, long to, const Group<T>& shift, State<T>& state,
                        const bool* few) {
    Group<T> most = spread<T>(state.m, w.columns, w.lanes);
    Sum<T> sum, tied;
    each<T>(
        w, from, to, T(-__builtin_inf()),
        [&](long, const Group<T>& g) INLINE_LAMBDA {
            auto apart = [](Vector<T> e, Vector<T> x, Vector<T> most)
                             INLINE_LAMBDA { return x == most ? Vector<T>{} : e; };
            auto ties = [](Vector<T> x, Vector<T> most)
                            INLINE_LAMBDA { return x == most ? Vector<T>{} + T(1) : Vector<T>{}; };
            Group<T> e = map<T>(apart, exp_of_group(g, shift), g, most), one = map<T>(ties, g, most);
            sum.add(e);
            tied.add(one);
        },
        x);
    for (int column = 0; column < w.columns; column++) {
        if (!few[column]) continue;
        Words s = total<T>(sum, column, w.columns, w.lanes);
        s.add((total<T>(tied, column, w.columns, w.lanes).high - 1) * state.top[column]);
        state.rest[column] = s.high, state.low[column] = s.low;
    }
}

// Rows with +inf in them come to that, or to NaN.
template <class T>
NOINLINE void look_for_nan(const Walk<T>& w, const T* x, long from, long to, State<T>& state) {
    for (int column = 0; column < w.columns; column++)
        if (state.m[column] == __builtin_inf()) state.rest[column] = state.low[column] = 0;
    for (long i = from; i < to; i++)
        for (int lane = 0; lane < w.lanes_of(i); lane++)
            if (x[w.offset(i) + lane] != x[w.offset(i) + lane]) state.rest[lane % w.columns] = __builtin_nan("");
}

// Of one chunk. What it exponentiates it gives to `keep`.
template <class T, class Keep>
INLINE void chunk_state(const Walk<T>& w, const T* x, long from, long to, State<T>& state, Keep keep) {
    maxima<T>(w, x, from, to, state.m);
    Group<T> shift = shifts<T>(state.m, w.columns, w.lanes);
    Sum<T> sum;
    each<T>(
        w, from, to, T(-__builtin_inf()),
        [&](long i, const Group<T>& g) INLINE_LAMBDA {
            Group<T> e = exp_of_group(g, shift);
            sum.add(e);
            keep(i, e);
        },
        x);
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

template <class T>
static void merge(int columns, State<T>& one, const State<T>& other) {
    for (int column = 0; column < columns; column++) {
        double a = one.m[column], b = other.m[column];
        if (!(a - a == 0 && b - b == 0)) {  // NaN stays in the rests
            double undefined = (one.rest[column] - one.rest[column]) + (other.rest[column] - other.rest[column]);
            bool first = a > b || b == -__builtin_inf();
            const State<T>& kept = first ? one : other;
            one.m[column] = kept.m[column], one.top[column] = kept.top[column];
            one.rest[column] = kept.rest[column] + undefined, one.low[column] = kept.low[column];
            continue;
        }
        bool first = a >= b;
        const State<T>&more = first ? one : other, &less = first ? other : one;
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
template <class T>
static void state_of(const Walk<T>& w, const T* x, long from, long to, State<T>& state) {
    auto nothing = [](long, const Group<T>&) INLINE_LAMBDA {};
    chunk_state<T>(w, x, from, from + CHUNK < to ? from + CHUNK : to, state, nothing);
    for (long i = from + CHUNK; i < to; i += CHUNK) {
        State<T> more;
        chunk_state<T>(w, x, i, i + CHUNK < to ? i + CHUNK : to, more, nothing);
        merge<T>(w.columns, state, more);
    }
}

// log(1 + rest/top), of all columns: log of the sum of exp(x - m).
template <class T>
static void log_sums(int columns, const State<T>& state, double* log_sum) {
    for (int column = 0; column < columns; column += VECTOR<double>) {
        Doubles top, rest, low;
        __builtin_memcpy(&top, state.top + column, BYTES);
        __builtin_memcpy(&rest, state.rest + column, BYTES);
        __builtin_memcpy(&low, state.low + column, BYTES);
        Doubles v = log1p_of((rest + low) / (top == 0.0 ? Doubles{} + 1.0 : top));
        __builtin_memcpy(log_sum + column, &v, BYTES);
    }
}
