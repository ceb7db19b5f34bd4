// An array, cut into what is worked on at once, and what the module calls. Included once for each instruction set,
// inside a namespace of its own.

struct Shape {
    long outer, n, inner;
};

constexpr long SHORT = 64;  // rows of up to so many entries are turned

template <class T>
struct Cut {
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
        return Walk<T>{
            start, fold * shape.inner, steps, int(fold * shape.inner), int(last * shape.inner), (int)shape.inner, size};
    }
    long row(long unit) const { return unit / tiles * shape.inner + unit % tiles * LANES<T>; }
};

template <class Op, class T>
static void put(const Op& op, const Walk<T>& w, long from, long to, const typename Op::Ready& ready) {
    [[maybe_unused]] T* out = op.out;
    if constexpr (Op::reduces) {
        return;  // there is nothing for each entry
    } else if constexpr (Op::pairs) {
        each<T>(
            w, from, to, T(0),
            [&](long i, const Group<T>& x, const Group<T>& g)
                INLINE_LAMBDA { write<T>(out + w.offset(i), Op::result(x, g, ready), w.lanes_of(i)); },
            op.x, op.g);
    } else {
        each<T>(
            w, from, to, T(0),
            [&](long i, const Group<T>& x)
                INLINE_LAMBDA { write<T>(out + w.offset(i), Op::result(x, ready), w.lanes_of(i)); },
            op.x);
    }
}

template <class Op, class T>
static void work(const Op& op, const Walk<T>& w, long row) {
    typename Op::Known known;
    typename Op::Ready ready;
    if constexpr (Op::fuses) {
        if (w.steps <= CHUNK) {
            op.gather_and_keep(w, known);
            op.prepare(w, row, known, ready);
            T* out = op.out;
            each<T>(
                w, 0, w.steps, T(0),
                [&](long i, const Group<T>& e)
                    INLINE_LAMBDA { write<T>(out + w.offset(i), Op::result_of_kept(e, ready), w.lanes_of(i)); },
                out);
            return;
        }
    }
    op.gather(w, row, 0, w.steps, known);
    op.prepare(w, row, known, ready);
    put<Op, T>(op, w, 0, w.steps, ready);
}

template <class T>
INLINE void turn(const T* rows, T* columns, long count, long n) {
    for (long i = 0; i < count; i++)
        for (long j = 0; j < n; j++) columns[j * LANES<T> + i] = rows[i * n + j];
}

template <class T>
INLINE void turn_back(const T* columns, T* rows, long count, long n) {
    for (long i = 0; i < count; i++)
        for (long j = 0; j < n; j++) rows[i * n + j] = columns[j * LANES<T> + i];
}

template <class Op, class T>
static void work_turned(Op op, const Cut<T>& cut, long unit) {
    alignas(64) T x[SHORT * LANES<T>], g[SHORT * LANES<T>], out[SHORT * LANES<T>];
    long n = cut.shape.n, first = unit * LANES<T>, left = cut.shape.outer - first;
    int count = (int)(left < LANES<T> ? left : LANES<T>);
    Walk<T> w{0, LANES<T>, n, count, count, count, SHORT * LANES<T>};
    T* result = op.out + first * n;
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

template <class Op, class T>
struct Whole {
    Op op;
    Cut<T> cut;

    static void range(void* self, long from, long to) {
        const Whole& all = *(Whole*)self;
        for (long unit = from; unit < to; unit++) {
            if (all.cut.turned)
                work_turned<Op, T>(all.op, all.cut, unit);
            else
                work<Op, T>(all.op, all.cut.walk(unit), all.cut.row(unit));
        }
    }
};

// Long rows that are fewer than the threads: each by all of them.
template <class Op, class T>
struct Long {
    const Op& op;
    Walk<T> walk;
    long row, segments;
    typename Op::Known known[MOST_THREADS];
    typename Op::Ready ready;

    long first(long segment) const { return walk.steps * segment / segments; }
    static void gather(void* self, long from, long to) {
        Long& all = *(Long*)self;
        for (long i = from; i < to; i++) all.op.gather(all.walk, all.row, all.first(i), all.first(i + 1), all.known[i]);
    }
    static void results(void* self, long from, long to) {
        Long& all = *(Long*)self;
        for (long i = from; i < to; i++) put<Op, T>(all.op, all.walk, all.first(i), all.first(i + 1), all.ready);
    }
    void run() {
        parallel(segments, segments, gather, this);
        for (long i = 1; i < segments; i++) op.join(walk, known[0], known[i]);
        op.prepare(walk, row, known[0], ready);
        if (!Op::reduces) parallel(segments, segments, results, this);
    }
};

template <class Op, class T>
void run_of(const Arguments& a) {
    Op op;
    op.x = (const T*)a.x, op.g = (const T*)a.g, op.out = (T*)a.out, op.rows = (Rows*)a.rows;
    Whole<Op, T> all{op, Cut<T>(Shape{a.outer, a.n, a.inner})};
    if (Op::segments && all.cut.units < a.threads && all.cut.walk(0).steps >= 8 * CHUNK) {
        for (long unit = 0; unit < all.cut.units; unit++) {
            Long<Op, T> one{op, all.cut.walk(unit), all.cut.row(unit), a.threads, {}, {}};
            one.run();
        }
    } else {
        parallel(a.threads, all.cut.units, Whole<Op, T>::range, &all);
    }
}

static const Run RUNS[2][6] = {
    {run_of<LogSumExp<float>, float>, run_of<Softmax<float>, float>, run_of<LogSoftmax<float>, float>,
     run_of<LogSumExpDerivative<float>, float>, run_of<SoftmaxDerivative<float>, float>,
     run_of<LogSoftmaxDerivative<float>, float>},
    {run_of<LogSumExp<double>, double>, run_of<Softmax<double>, double>, run_of<LogSoftmax<double>, double>,
     run_of<LogSumExpDerivative<double>, double>, run_of<SoftmaxDerivative<double>, double>,
     run_of<LogSoftmaxDerivative<double>, double>},
};
