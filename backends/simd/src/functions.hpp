// What is computed of rows. Included once for each instruction set, inside a namespace of its own.
//
// Each gathers what is to be known of a part of some rows, joins such parts, prepares what the lanes
// need of it, and gives a step's results. Those that can, write a part of one chunk as they gather.

struct Rows {
    double m, rest;
};

template <class T>
struct Operands {
    static constexpr bool fuses = false, reduces = false, segments = true, pairs = false;  // of x and g
    const T *x, *g;  // what was reduced, and beside it a cotangent
    T* out;
    Rows* rows;  // of each row, its maximum and the others' sum: for derivatives, if asked for
};

template <class T>
static void remember(const Walk<T>& w, long row, const State<T>& s, Rows* rows) {
    if (!rows) return;
    for (int column = 0; column < w.columns; column++)
        rows[row + column] = Rows{s.m[column], s.rest[column] + s.low[column]};
}

template <class T>
struct LogSumExp : Operands<T> {
    typedef State<T> Known;
    struct Ready {};
    static constexpr bool reduces = true;

    void gather(const Walk<T>& w, long, long from, long to, Known& s) const { state_of<T>(w, this->x, from, to, s); }
    void join(const Walk<T>& w, Known& one, const Known& other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T>& w, long row, const Known& s, Ready&) const {
        alignas(64) double log_sum[LANES<T>];
        log_sums<T>(w.columns, s, log_sum);
        for (int column = 0; column < w.columns; column++) this->out[row + column] = (T)(s.m[column] + log_sum[column]);
        remember<T>(w, row, s, this->rows);
    }
};

template <class T>
struct Softmax : Operands<T> {
    typedef State<T> Known;
    struct Ready {
        Group<T> shift, factor;
    };
    static constexpr bool fuses = true;

    void gather(const Walk<T>& w, long, long from, long to, Known& s) const { state_of<T>(w, this->x, from, to, s); }
    void gather_and_keep(const Walk<T>& w, Known& s) const {
        T* out = this->out;
        chunk_state<T>(w, this->x, 0, w.steps, s,
                       [&](long i, const Group<T>& e) INLINE_LAMBDA { write<T>(out + w.offset(i), e, w.lanes_of(i)); });
    }
    void join(const Walk<T>& w, Known& one, const Known& other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T>& w, long row, const Known& s, Ready& ready) const {
        alignas(64) double factor[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            double undefined = s.m[column] - s.m[column];  // in a row of nothing but -inf, or with +inf
            factor[column] = 1 / (s.rest[column] + s.low[column] + s.top[column]) + undefined;
        }
        ready.shift = shifts<T>(s.m, w.columns, w.lanes);
        ready.factor = spread<T>(factor, w.columns, w.lanes);
        remember<T>(w, row, s, this->rows);
    }
    static INLINE Group<T> result(const Group<T>& x, const Ready& ready) {
        return result_of_kept(exp_of_group(x, ready.shift), ready);
    }
    static INLINE Group<T> result_of_kept(const Group<T>& e, const Ready& ready) {
        return map<T>([](Vector<T> e, Vector<T> factor) INLINE_LAMBDA { return e * factor; }, e, ready.factor);
    }
};

template <class T>
struct LogSoftmax : Operands<T> {
    typedef State<T> Known;
    struct Ready {
        Group<T> m, log_sum;
    };

    void gather(const Walk<T>& w, long, long from, long to, Known& s) const { state_of<T>(w, this->x, from, to, s); }
    void join(const Walk<T>& w, Known& one, const Known& other) const { merge<T>(w.columns, one, other); }
    void prepare(const Walk<T>& w, long row, const Known& s, Ready& ready) const {
        alignas(64) double log_sum[LANES<T>];
        log_sums<T>(w.columns, s, log_sum);
        for (int column = 0; column < w.columns; column++) log_sum[column] += s.m[column] - s.m[column];
        ready.m = spread<T>(s.m, w.columns, w.lanes);
        ready.log_sum = spread<T>(log_sum, w.columns, w.lanes);
        remember<T>(w, row, s, this->rows);
    }
    static INLINE Group<T> result(const Group<T>& x, const Ready& ready) {
        auto f = [](Vector<T> x, Vector<T> m, Vector<T> log_sum) INLINE_LAMBDA { return (x - m) - log_sum; };
        return map<T>(f, x, ready.m, ready.log_sum);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Derivatives: of p = softmax(x), given p or what is known of the rows of x

// v = p sum(t) - t with t = p (r - g), for any r: in rows with a dominant entry its g, so that its own t is 0 and
// nothing is the difference from the 1 that it holds most of.
template <class T>
struct SoftmaxDerivative : Operands<T> {  // x is p
    struct Known {
        alignas(64) double r[LANES<T>], sum[LANES<T>], low[LANES<T>];
    };
    struct Ready {
        Group<T> r, sum;
    };
    static constexpr bool pairs = true, segments = false;  // the r of one would be needed in all

    bool pass(const Walk<T>& w, long from, long to, const Group<T>& r, Known& known) const {
        Sum<T> sum;
        Group<T> found = all<T>(T(0));
        auto dominant = [](Vector<T> p, Vector<T> g, Vector<T> found) INLINE_LAMBDA { return p > T(0.5) ? g : found; };
        auto term = [](Vector<T> p, Vector<T> g, Vector<T> r) INLINE_LAMBDA { return p * (r - g); };
        each<T>(
            w, from, to, T(0),
            [&](long, const Group<T>& p, const Group<T>& g) INLINE_LAMBDA {
                found = map<T>(dominant, p, g, found);
                sum.add(map<T>(term, p, g, r));
            },
            this->x, this->g);
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
    void gather(const Walk<T>& w, long, long from, long to, Known& known) const {
        if (pass(w, from, to, all<T>(T(0)), known)) {
            double r[LANES<T>];
            __builtin_memcpy(r, known.r, sizeof r);
            pass(w, from, to, spread<T>(r, w.columns, w.lanes), known);
        }
    }
    void join(const Walk<T>&, Known&, const Known&) const {}
    void prepare(const Walk<T>& w, long, Known& known, Ready& ready) const {
        for (int column = 0; column < w.columns; column++) known.sum[column] += known.low[column];
        ready.r = spread<T>(known.r, w.columns, w.lanes);
        ready.sum = spread<T>(known.sum, w.columns, w.lanes);
    }
    static INLINE Group<T> result(const Group<T>& p, const Group<T>& g, const Ready& ready) {
        auto f = [](Vector<T> p, Vector<T> g, Vector<T> r, Vector<T> sum) INLINE_LAMBDA { return p * (sum - (r - g)); };
        return map<T>(f, p, g, ready.r, ready.sum);
    }
};

// v = g - p sum(g), which at a dominant entry is (1 - p) sum(g) - (the sum of the other g), and 1 - p is the others'
// share.
template <class T>
struct LogSoftmaxDerivative : Operands<T> {
    struct Known {
        alignas(64) double others[LANES<T>], low[LANES<T>], most[LANES<T>];
    };
    struct Ready {
        Group<T> shift, factor, dominant, at_dominant;
    };
    static constexpr bool pairs = true;

    static INLINE bool dominated(const Rows& known) { return known.rest < top_of<T>(known.m); }
    Group<T> dominants(const Walk<T>& w, long row) const {
        alignas(64) double m[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows& known = this->rows[row + column];
            m[column] = dominated(known) ? known.m : __builtin_nan("");
        }
        return spread<T>(m, w.columns, w.lanes);
    }
    void gather(const Walk<T>& w, long row, long from, long to, Known& known) const {
        bool any = false;
        for (int column = 0; column < w.columns; column++) any |= dominated(this->rows[row + column]);
        Sum<T> others, most;
        if (any) {
            Group<T> dominant = dominants(w, row);
            auto at = [](Vector<T> x, Vector<T> g, Vector<T> most)
                          INLINE_LAMBDA { return x == most ? g : Vector<T>{}; };
            auto beside = [](Vector<T> x, Vector<T> g, Vector<T> most)
                              INLINE_LAMBDA { return x == most ? Vector<T>{} : g; };
            each<T>(
                w, from, to, T(0),
                [&](long, const Group<T>& x, const Group<T>& g) INLINE_LAMBDA {
                    others.add(map<T>(beside, x, g, dominant));
                    most.add(map<T>(at, x, g, dominant));
                },
                this->x, this->g);
        } else {
            each<T>(w, from, to, T(0), [&](long, const Group<T>& g) INLINE_LAMBDA { others.add(g); }, this->g);
        }
        for (int column = 0; column < w.columns; column++) {
            Words s = total<T>(others, column, w.columns, w.lanes);
            known.others[column] = s.high, known.low[column] = s.low;
            known.most[column] = any ? total<T>(most, column, w.columns, w.lanes).high : 0;
        }
    }
    void join(const Walk<T>& w, Known& one, const Known& other) const {
        for (int column = 0; column < w.columns; column++) {
            Words s{one.others[column], one.low[column]};
            s.add(other.others[column]);
            one.others[column] = s.high, one.low[column] = s.low + other.low[column];
            one.most[column] += other.most[column];
        }
    }
    void prepare(const Walk<T>& w, long row, const Known& known, Ready& ready) const {
        alignas(64) double m[LANES<T>], factor[LANES<T>], at_dominant[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows& known_row = this->rows[row + column];
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
    static INLINE Group<T> result(const Group<T>& x, const Group<T>& g, const Ready& ready) {
        auto f = [](Vector<T> x, Vector<T> g, Vector<T> shift, Vector<T> factor, Vector<T> dominant, Vector<T> there)
                     INLINE_LAMBDA { return x == dominant ? there : g - exp_of<T>(x - shift) * factor; };
        return map<T>(f, x, g, ready.shift, ready.factor, ready.dominant, ready.at_dominant);
    }
};

// v = p g with one g for each row: 0 on dead rows, and shared by the +inf of a row that has any.
template <class T>
struct LogSumExpDerivative : Operands<T> {
    struct Known {
        alignas(64) double infinite[LANES<T>];
    };
    struct Ready {
        Group<T> shift, share, g, infinite, at_infinite;
    };

    void gather(const Walk<T>& w, long row, long from, long to, Known& known) const {
        for (int column = 0; column < w.columns; column++) {
            known.infinite[column] = 0;
            if (this->rows[row + column].m != __builtin_inf()) continue;
            for (long i = from; i < to; i++)
                for (int lane = column; lane < w.lanes_of(i); lane += w.columns)
                    known.infinite[column] += this->x[w.offset(i) + lane] == __builtin_inf();
        }
    }
    void join(const Walk<T>& w, Known& one, const Known& other) const {
        for (int column = 0; column < w.columns; column++) one.infinite[column] += other.infinite[column];
    }
    void prepare(const Walk<T>& w, long row, const Known& known, Ready& ready) const {
        alignas(64) double m[LANES<T>], share[LANES<T>], g[LANES<T>], infinite[LANES<T>], at_infinite[LANES<T>];
        for (int column = 0; column < w.columns; column++) {
            const Rows& known_row = this->rows[row + column];
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
    static INLINE Group<T> result(const Group<T>& x, const Ready& ready) {
        auto f = [](Vector<T> x, Vector<T> shift, Vector<T> share, Vector<T> g, Vector<T> infinite, Vector<T> there)
                     INLINE_LAMBDA { return x == infinite ? there : exp_of<T>(x - shift) * share * g; };
        return map<T>(f, x, ready.shift, ready.share, ready.g, ready.infinite, ready.at_infinite);
    }
};
