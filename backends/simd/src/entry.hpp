// What the module calls. Included once for each instruction set, inside a namespace of its own.

template <class Op, class T> struct Whole {
    Op op;
    Cut<T> cut;

    static void range(void *self, long from, long to) {
        const Whole &all = *(Whole *)self;
        for (long unit = from; unit < to; unit++) {
            if (all.cut.turned) work_turned<Op, T>(all.op, all.cut, unit);
            else work<Op, T>(all.op, all.cut.walk(unit), all.cut.row(unit));
        }
    }
};

// Long rows that are fewer than the threads: each by all of them.
template <class Op, class T> struct Long {
    const Op &op;
    Walk<T> walk;
    long row, segments;
    typename Op::Known known[MOST_THREADS];
    typename Op::Ready ready;

    long first(long segment) const { return walk.steps * segment / segments; }
    static void gather(void *self, long from, long to) {
        Long &all = *(Long *)self;
        for (long i = from; i < to; i++) all.op.gather(all.walk, all.row, all.first(i), all.first(i + 1), all.known[i]);
    }
    static void results(void *self, long from, long to) {
        Long &all = *(Long *)self;
        for (long i = from; i < to; i++) put<Op, T>(all.op, all.walk, all.first(i), all.first(i + 1), all.ready);
    }
    void run() {
        parallel(segments, segments, gather, this);
        for (long i = 1; i < segments; i++) op.join(walk, known[0], known[i]);
        op.prepare(walk, row, known[0], ready);
        if (!Op::reduces) parallel(segments, segments, results, this);
    }
};

template <class Op, class T> void run_of(const Arguments &a) {
    Op op;
    op.x = (const T *)a.x, op.g = (const T *)a.g, op.out = (T *)a.out, op.rows = (Rows *)a.rows;
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
