"""Entropy and the divergences of two distributions: their truths and their cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anysoft_conformance import oracle
from anysoft_conformance.corpus import AXES, FLOATS, LOGITS, MASKS, TEMPERATURES, Case, Typed
from anysoft_conformance.oracle import FloatArray, Number, Truth, number, precision, round_to
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Line, Problem, Rows, exact, joined

INF, NAN = math.inf, math.nan
BITS = 2400  # exp(−745) beside 1 keeps 1300 bits
Numbers = list[Number]

# ---------------------------------------------------------------------------------------------------------------------
# The truth of a row


def _of_rows(of_line: Callable[..., Truth]) -> Callable[[Problem], tuple[Truth, ...]]:
    """The truth of a function that reduces rows: 0 of nothing, NaN where there is no distribution."""

    def truth(problem: Problem) -> tuple[Truth, ...]:
        rows = _rows(problem)
        found = joined([_of_line(of_line, line) for line in rows.lines])
        return (rows.reduced(found, keepdims=bool(problem.options.get("keepdims"))),)

    return truth


def _rows(problem: Problem) -> Rows:
    x, *others = problem.arrays
    beside = {"y": np.asarray(others[0], dtype=np.float64)} if others else {}
    with_y = Problem((x,), problem.axis, {**problem.options, **beside}, problem.dtype)
    return Rows(with_y, "y", "where", "temperature")


def _of_line(of_line: Callable[..., Truth], line: Line) -> Truth:
    kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)
    arrays = [line[name][kept] for name in ("x", "y") if name in line]
    temperature = float(np.reshape(line.get("temperature", 1.0), -1)[0]) if kept.size else 1.0
    if not kept.any():
        return exact([number(0.0)], [0.0])
    if not temperature >= 0 or any(not np.max(a) > -INF or not np.max(a) < INF for a in arrays):
        return exact([number(NAN)], [0.0])
    # equal entries have equal terms: a long row of halves has few
    columns, counts = np.unique(np.stack(arrays), axis=1, return_counts=True)
    return of_line(*columns, counts, temperature)


def _share(x: FloatArray, counts: FloatArray, t: Number) -> tuple[Numbers, Numbers, Number]:
    """(x − max)/T and p of each entry (−1 and 0 where there is none), and Σ exp((x − max)/T) − 1."""
    top = number(float(x.max()))
    d = [(number(v) - top) / t if v > -INF else number(-1.0) for v in x.tolist()]
    e = [oracle.library.exp(a) if v > -INF else number(0.0) for a, v in zip(d, x.tolist(), strict=True)]
    rest = sum((b * n for a, b, n in zip(d, e, counts.tolist(), strict=True) if a != 0), number(0.0))
    rest += int(counts[x == x.max()].sum()) - 1
    return d, [b / (1 + rest) for b in e], rest


def _entropy(x: FloatArray, counts: FloatArray, temperature: float) -> Truth:
    with precision(2 * oracle.BITS):
        if temperature == 0 or temperature == INF:
            kept = x == x.max() if temperature == 0 else x > -INF
            return exact([oracle.library.log(number(float(counts[kept].sum())))], [0.0])
        d, p, rest = _share(x, counts, number(temperature))
        mean = sum((-n * a * b for a, b, n in zip(d, p, counts.tolist(), strict=True)), number(0.0))
        slopes = [
            n * b * (a + mean) / number(temperature) * number(v)
            for a, b, n, v in zip(d, p, counts.tolist(), np.where(x > -INF, x, 0.0).tolist(), strict=True)
        ]
        condition = sum(map(abs, slopes), number(0.0))
        if temperature != 1:
            condition += abs(sum(slopes, number(0.0)))  # the function is one of x/T
        return exact([oracle.library.log1p(rest) + mean], [float(condition)])


def _kl(x: FloatArray, y: FloatArray, counts: FloatArray, temperature: float) -> Truth:
    if ((x > -INF) & (y == -INF)).any():
        return exact([number(INF)], [0.0])
    return _resolved(x, y, counts, lambda p, q, ratio: p * ratio, lambda p, q, ratio, value: p * (ratio - value))


def _js(x: FloatArray, y: FloatArray, counts: FloatArray, temperature: float) -> Truth:
    log = oracle.library.log

    def term(p: Number, q: Number, ratio: Number) -> Number:
        return sum((a * log(2 * a / (p + q)) / 2 for a in (p, q) if a), number(0.0))

    x, y = np.array(x), np.array(y)
    value = _resolved(x, y, counts, term, None)
    return Truth(value.high, value.low, value.exponent, _js_condition(x, y, counts))


def _js_condition(x: FloatArray, y: FloatArray, counts: FloatArray) -> FloatArray:
    log = oracle.library.log
    with precision(BITS):
        (_, p, _), (_, q, _) = _share(x, counts, number(1.0)), _share(y, counts, number(1.0))
        total = number(0.0)
        for one, other, sizes in ((p, q, x), (q, p, y)):
            logs = [log(2 * a / (a + b)) if a else number(0.0) for a, b in zip(one, other, strict=True)]
            mean = sum((n * a * b for n, a, b in zip(counts.tolist(), one, logs, strict=True)), number(0.0))
            for n, a, b, size in zip(counts.tolist(), one, logs, sizes.tolist(), strict=True):
                if a:
                    total += n * abs(a * (b - mean)) / 2 * abs(number(size))
        return np.array([float(total)])


def _resolved(
    x: FloatArray, y: FloatArray, counts: FloatArray, term: Callable[..., Number], slope: Callable[..., Number] | None
) -> Truth:
    """Σ term(p, q, log p/q) to at least 100 bits, though it cancels where x and y are close."""
    bits = 2 * oracle.BITS
    sizes = counts.tolist()
    while True:
        with precision(bits):
            (a, p, of_x), (b, q, of_y) = _share(x, counts, number(1.0)), _share(y, counts, number(1.0))
            change = oracle.library.log1p(of_x) - oracle.library.log1p(of_y)
            ratio = [
                (v - w) - change if here else number(0.0)
                for v, w, here in zip(a, b, ((x > -INF) & (y > -INF)).tolist(), strict=True)
            ]
            terms = [n * term(*each) for n, *each in zip(sizes, p, q, ratio, strict=True)]
            value, size = sum(terms, number(0.0)), sum(map(abs, terms), number(0.0))
            if bits >= BITS or abs(value) > size * number(2.0 ** (120 - bits)):
                condition = number(0.0)
                if slope is not None:
                    for n, u, o, r, v, w in zip(sizes, p, q, ratio, x.tolist(), y.tolist(), strict=True):
                        if u:
                            condition += n * abs(slope(u, o, r, value)) * abs(number(v))
                        if o:
                            condition += n * abs(o - u) * abs(number(w))
                return exact([value], [float(condition)])
        bits = min(4 * bits, BITS)


entropy, kl_divergence, js_divergence = _of_rows(_entropy), _of_rows(_kl), _of_rows(_js)

# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of one row, from closed forms. Each is a function from rows of numbers to the list of its entries; None
# stands for −inf.

Derivative = Callable[..., Numbers]


def _p(x: Sequence[Number | None]) -> Numbers:
    top = max(v for v in x if v is not None)
    e = [number(0.0) if v is None else oracle.library.exp(v - top) for v in x]
    total = sum(e, number(0.0))
    return [each / total for each in e]


def _log_p(x: Sequence[Number | None]) -> list[Number | None]:
    """log p to the last digit, also where p is below every exponent."""
    top = max(v for v in x if v is not None)
    rest = sum((oracle.library.exp(v - top) for v in x if v is not None and v != top), number(0.0))
    log_total = oracle.library.log1p(rest + (sum(v is not None and v == top for v in x) - 1))
    return [None if v is None else v - top - log_total for v in x]


def _log_ratio(x: Any, y: Any) -> Numbers:
    pairs = zip(_log_p(x), _log_p(y), strict=True)
    return [u - v if u is not None and v is not None else number(0.0) for u, v in pairs]


def _centred(p: Numbers, t: Numbers) -> Numbers:
    mean = sum((a * b for a, b in zip(p, t, strict=True)), number(0.0))
    return [each - mean for each in t]


def _products(p: Numbers, t: Numbers) -> Numbers:
    return [a * b for a, b in zip(p, t, strict=True)]


def _second(p: Numbers, k: Numbers) -> Numbers:
    """Of Σ p log p − Σ p c, with k = log p − c less its mean: ∂(p_i k_i)/∂x_j."""
    places = range(len(p))
    return [(p[i] * (1 + k[i]) if i == j else 0) - p[i] * p[j] * (1 + k[i] + k[j]) for i in places for j in places]


def _entropy_by_x(x: Any) -> Numbers:
    p = _p(x)
    return [-each for each in _products(p, _centred(p, _log_ratio(x, [number(0.0)] * len(x))))]


def _entropy_by_xx(x: Any) -> Numbers:
    p = _p(x)
    return [-each for each in _second(p, _centred(p, _log_ratio(x, [number(0.0)] * len(x))))]


def _kl_by_x(x: Any, y: Any) -> Numbers:
    p = _p(x)
    return _products(p, _centred(p, _log_ratio(x, y)))


def _kl_by_xx(x: Any, y: Any) -> Numbers:
    p = _p(x)
    return _second(p, _centred(p, _log_ratio(x, y)))


def _kl_by_y(x: Any, y: Any) -> Numbers:
    return [b - a for a, b in zip(_p(x), _p(y), strict=True)]


def _kl_by_yy(x: Any, y: Any) -> Numbers:
    q = _p(y)
    return [(a if i == j else 0) - a * b for i, a in enumerate(q) for j, b in enumerate(q)]


def _log_to_middle(p: Numbers, q: Numbers) -> Numbers:
    return [oracle.library.log(2 * a / (a + b)) if a else number(0.0) for a, b in zip(p, q, strict=True)]


def _js_by_x(x: Any, y: Any) -> Numbers:
    p, q = _p(x), _p(y)
    return [each / 2 for each in _products(p, _centred(p, _log_to_middle(p, q)))]


def _js_by_xx(x: Any, y: Any) -> Numbers:
    p, q = _p(x), _p(y)
    places = range(len(p))
    k = _centred(p, _log_to_middle(p, q))
    shared = [a * b / (a + b) if a else number(0.0) for a, b in zip(p, q, strict=True)]
    total = sum(shared, number(0.0))

    def entry(i: int, j: int) -> Number:
        own = (p[i] if i == j else 0) - p[i] * p[j]
        by_log = (shared[i] if i == j else 0) - shared[i] * p[j]
        return (own * k[i] + by_log - p[i] * (p[j] * k[j] + shared[j] - p[j] * total)) / 2

    return [entry(i, j) for i in places for j in places]


def derivative(function: Derivative, order: int) -> Callable[[Problem], Truth]:
    """The truth of a derivative with respect to one row: 0 where the value is +inf, and at excluded entries."""

    def truth(problem: Problem) -> Truth:
        x = problem.x.reshape(-1)
        kept = np.broadcast_to(np.asarray(problem.options.get("where", True), dtype=bool), x.shape)
        shape = (x.size,) * order
        whole = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape)
        arrays = [np.broadcast_to(array, x.shape)[kept] for array in problem.arrays]
        infinite = function in (_kl_by_x, _kl_by_xx, _kl_by_y, _kl_by_yy) and bool(
            ((arrays[0] > -INF) & (arrays[1] == -INF)).any()
        )
        if kept.any() and not infinite:
            inner = _with_condition(function, arrays)
            places = np.ix_(*[np.flatnonzero(kept)] * order)
            for part, name in zip(whole, ("high", "low", "exponent", "condition"), strict=True):
                part[places] = getattr(inner, name).reshape((len(arrays[0]),) * order)
        return Truth(*whole)

    return truth


def _with_condition(function: Derivative, arrays: list[FloatArray]) -> Truth:
    """Its entries, and Σ |∂/∂x_j||x_j| over all arrays from steps of 2^−800 of each x_j."""
    with precision(BITS):
        given = [[number(v) if v > -INF else None for v in array.tolist()] for array in arrays]
        entries = function(*given)
        condition = [number(0.0)] * len(entries)
        step = number(2.0**-800)
        for row in given:
            for j, v in enumerate(row):
                if v:
                    row[j] = v * (1 + step)
                    moved = function(*given)
                    condition = [c + abs(m - e) / step for c, m, e in zip(condition, moved, entries, strict=True)]
                    row[j] = v
        return exact(entries, [float(c) for c in condition])


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def _for(name: str, *cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, on=(name,)) for case in cases)


def _named(cases: Sequence[Case], *names: str) -> tuple[Case, ...]:
    found = tuple(case for case in cases if case.name in names)
    assert len(found) == len(names)
    return found


_ROW = (0.5, -1.25, 2.0, 0.125)
_ENTROPY = (
    *(
        replace(case, derivatives=len(case.x) in (2, 4), dtypes=() if len(case.x) in (2, 4) else FLOATS)
        for case in LOGITS
        if case.name != "runner_up"
    ),
    Case("rare", (0.0, -88.0), "p is subnormal in float32, and p log p is not"),
    Case("rare_double", (0.0, -709.0), "the same in float64", dtypes=("float64",)),
    Case("nearly_uniform", (1e-9, 0.0, -1e-9, 3e-9), "the derivative is a difference of logits, not of 1 and 1"),
    Case("absent_beside", (0.0, 1.0, -INF, 2.0), "0 log 0 is 0, its derivative too (huggingface/trl#7221, F14)"),
    Case("shifted", tuple(v + 1024.0 for v in _ROW), "normalisation is nothing"),
    Case("half", (0.0, 1e-3), "two entries of a half: dominated, by the last place"),
    *(
        replace(case, dtypes=("float32",), derivatives=case.name in ("masked", "masked_out"))
        for case in _named(MASKS, "masked", "masked_huge", "masked_out", "masked_dead", "masked_nan_kept",
                           "masked_dominated", "mask_broadcast_up", "mask_broadcast_down", "mask_false", "mask_true")
    ),
    *_named(TEMPERATURES, "temperature_keeps_dtype"),
    *(
        replace(case, dtypes=FLOATS)
        for case in _named(TEMPERATURES, "temperature_per_row", "temperature_tiny", "temperature_huge")
    ),
    *(
        replace(case, dtypes=("float32",))
        for case in TEMPERATURES
        for name in ("moderate", "zeros", "dominated", "opposite", "some_absent", "dead")
        for heat in ("0", "0.3", "50", "inf")
        if case.name == f"{name}_at_{heat}"
    ),
    *(
        replace(case, dtypes=("float32",))
        for case in _named(AXES, "axis_none", "axis_first", "axis_pair", "axis_nothing", "kept", "point",
                           "point_nothing", "empty", "empty_all", "empty_batch")
    ),
)  # fmt: skip


def _drawn(place: int, draw: Callable[[np.random.Generator], tuple[FloatArray, FloatArray]]) -> Any:
    return lambda dtype: round_to(draw(np.random.default_rng(20261125))[place], dtype)


def _pair(name: str, x: Any, y: Any, why: str, **more: Any) -> Case:
    return Case(name, x, why, others=(y,), **more)


def _shape(name: str, x: Any, y: Any, why: str, **more: Any) -> Case:
    return _pair(name, x, y, why, dtypes=("float32",), derivatives=False, **more)


def _close(size: float) -> Callable[[np.random.Generator], tuple[FloatArray, FloatArray]]:
    def draw(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        x = rng.normal(0, 2, (200, 4))
        return x, x + size * rng.normal(0, 1, x.shape)

    return draw


def _wide(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    scale = 10.0 ** rng.uniform(-4, 1.5, (200, 1))
    return scale * rng.normal(0, 1, (200, 4)), scale * rng.normal(0, 1, (200, 4))


def _long(place: int, length: int) -> Callable[[str], FloatArray]:
    """Logits of 10⁶ or so, and others that are a function of them: so there are few pairs."""

    def values(dtype: str) -> FloatArray:
        x = round_to(np.random.default_rng(20260101).normal(0, 1, length), "bfloat16")
        x[123_456 % length] = 11.0
        return x if place == 0 else round_to(1.0625 * x + 0.25 * np.sin(40.0 * x), "bfloat16")

    return values


LONG = _long(0, 10**6), _long(1, 10**6)
# what both divergences share is asked of one
_SHAPES = (
    _shape("broadcast", ((0.5, 1.0), (2.0, -1.0)), (0.25, 0.5), "one y for each x"),
    _shape("broadcast_up", (0.25, 0.5), ((0.5, 1.0), (2.0, -1.0)), "and more of y than of x"),
    _shape("kept", ((0.5, 1.0), (2.0, -1.0)), (0.25, 0.5), "reduced axes of length one", axis=(0, 1),
           options={"keepdims": True}),
    _shape("axis_first", ((0.5, 1.0), (2.0, -1.0)), ((0.5,), (2.5,)), "not the contiguous one", axis=0),
    _shape("axis_none", ((0.5, 1.0), (2.0, -1.0)), 0.5, "all of them, beside a number", axis=None),
    _shape("axis_nothing", (0.5, 1.0), (2.0, -INF), "one entry is one distribution", axis=()),
    _shape("empty", ((), ()), ((), ()), "empty rows: 0"),
)  # fmt: skip
_PAIRS = (
    _pair("moderate", _ROW, (1.0, 0.5, -0.75, 0.25), "nothing special"),
    _pair("same", _ROW, _ROW, "0, with derivatives 0"),
    _pair("close", (0.0, 1e-9), (0.0, 0.0), "1.25e-19: the sum of p log p/q has no digit left"),
    _pair("last_place", (1.0, 0.5, 2.0, 0.25), (1.0009765625, 0.5, 2.0, 0.25), "differ in the last place of float16"),
    _pair("close_to_zero", (1e-12, -1e-12, 3e-12, 0.0), (0.0, 2e-12, 1e-12, -1e-12),
          "q − p is no difference of quarters"),
    _pair("shifted", _ROW, tuple(v + 1024.0 for v in _ROW), "normalisation is nothing: 0"),
    _pair("shifted_and_close", (1000.0, 1000.5, 999.0, 1000.0), (-3.0, -2.5, -3.9990234375, -3.0), "and near 0 still"),
    _pair("dominated", (0.0, -40.0), (0.0, -45.0), "all of it is in the rare one"),
    _pair("dominated_alike", (7.0, -20.0, -21.0, -INF), (7.0, -21.0, -20.0, -INF), "the largest hardly differs"),
    _pair("dominated_beside", (24.399, 2.969, 1.5, -0.5), (0.236, -0.539, -0.227, 1.765),
          "x − y and its maximum are large, and their difference is not"),
    _pair("two_leaders", (0.0, 0.0, -60.0, -50.0), (0.0, 0.0, -20.0, -60.0),
          "a derivative of 1e-25 beside a KL of 1e-9"),
    _pair("against", (0.0, -30.0), (-30.0, 0.0), "each sure of the other one"),
    _pair("against_in_part", (3.0, 0.0, -1.0, -2.0), (-2.0, -1.0, 0.0, 3.0), "the same, less sure"),
    _pair("switch", (2.0, 0.0, 0.0, 1.999), (0.0, 0.0, 2.001, 0.0), "where the series takes over"),
    _pair("rare", (0.0, -88.0), (0.0, -100.0), "p is subnormal in float32, and p log p is not"),
    _pair("rare_double", (0.0, -709.0), (0.0, -900.0), "the same in float64", dtypes=("float64",)),
    _pair("far", (1e30, 1e30, 0.0, -1e30), (0.0, 1e30, 1e30, 0.0), "one half times 1e30", dtypes=FLOATS),
    _pair("opposite", ("max", "-max"), ("-max", "max"), "past the range", derivatives=False),
    _pair("opposite_in_range", (1.0, 0.0), ("max",
          "-max"), "a log-ratio of twice the range, and rare enough", dtypes=FLOATS),
    _pair("mismatch", (0.0, 0.5), (0.0, -INF), "+inf, with derivatives 0 (pytorch#89558)"),
    _pair("mismatch_rare", (0.0, -1000.0), (0.0, -INF), "+inf, however rare"),
    _pair("absent", (0.5, 1.0, -INF, 2.0), (0.25, -1.0, -INF, 1.0), "0 log 0/0 is 0 (F13)"),
    _pair("absent_first", (0.0, -INF), (0.0, 0.5), "0 log 0 is 0"),
    _pair("disjoint", (0.0, -INF), (-INF, 0.0), "+inf; log 2"),
    _pair("alone", (0.0, -INF), (5.0, -INF), "the same one entry: 0"),
    _pair("dead", (-INF, -INF), (0.0, 1.0), "no distribution"),
    _pair("dead_second", (0.0, 1.0), (-INF, -INF), "nor here: NaN, not +inf"),
    _pair("infinite", (INF, 1.0), (0.0, 1.0), "nor here"),
    _pair("infinite_second", (0.0, 1.0), (INF, -INF), "nor here"),
    _pair("not_a_number", (NAN, 1.0), (0.0, -INF), "not even beside a mismatch"),
    _pair("not_a_number_second", (0.0, 1.0), (NAN, -INF), "nor in the other"),
    _pair("masked", (0.0, NAN, 1.0, INF), (0.5, 2.0, 0.25, -INF), "what is excluded is never looked at",
          dtypes=("float32",), options={"where": (True, False, True, False)}),
    _pair("masked_out", (NAN, 1.0, 0.0, -INF), (0.0, INF, 0.0, 0.0), "nothing left: 0", dtypes=("float32",),
          options={"where": (False,) * 4}),
    _pair("masked_dead", (-INF, 1.0, 0.0, 0.0), (0.0,) * 4, "−inf left", dtypes=("float32",),
          options={"where": (True, False, False, False)}, derivatives=False),
    *_SHAPES,
    _pair("integers", Typed("int8", (127, 126)), Typed("int8", (-128, 127)), "the default float, before any shift",
          dtypes=("float32",), derivatives=False),
    _pair("wider", (0.5, -0.25), Typed("float64", (0.5, -0.125)), "the wider of two dtypes", dtypes=("float32",),
          result="float64", derivatives=False),
    _pair("narrowed", (0.0, 1e-9), (0.0, 0.0), "a result rounded once", options={"dtype": "float32"},
          dtypes=("float64",), derivatives=False),
    *(
        _pair(f"random_{name}", _drawn(0, draw), _drawn(1, draw), why, dtypes=FLOATS, derivatives=False)
        for name, draw, why in (
            ("wide", _wide, "200 rows of every scale from 1e-4 to 30"),
            ("close", _close(1e-3), "200 rows beside their neighbours"),
            ("closer", _close(1e-9), "and nearer still", ),
        )
    ),
    _pair("long", LONG[0], LONG[1], "10⁶ entries, with a maximum of little weight", dtypes=FLOATS, derivatives=False,
          full=True),
    _pair("refuses_complex", (0.0, 1.0), Typed("complex64", (1j, 2)), "no order among them", dtypes=("float32",),
          raises=TypeError, match="complex64"),
    _pair("refuses_shape", (0.0, 1.0), (0.0, 1.0, 2.0), "shapes that do not broadcast", dtypes=("float32",),
          raises=ValueError, match="y of shape (3,)"),
    _pair("refuses_axis", (0.0, 1.0), (0.0, 1.0), "an axis out of range", axis=2, dtypes=("float32",),
          raises=IndexError, match="2"),
    _pair("refuses_mask", (0.0, 1.0), (0.0, 1.0), "a mask that is none", options={"where": Typed("int32", (1, 0))},
          dtypes=("float32",), raises=TypeError, match="where must be boolean"),
)  # fmt: skip
SUBJECTS = (
    Subject(
        "entropy",
        entropy,
        _for("entropy", *_ENTROPY, replace(_named(_PAIRS, "long")[0], others=())),
        derivative(_entropy_by_x, 1),
        derivative(_entropy_by_xx, 2),
    ),
    Subject(
        "kl_divergence",
        kl_divergence,
        _for("kl_divergence", *_PAIRS),
        derivative(_kl_by_x, 1),
        derivative(_kl_by_xx, 2),
    ),
    # second derivatives of js_divergence: tests/test_entropy.py
    Subject(
        "js_divergence",
        js_divergence,
        _for("js_divergence", *(case for case in _PAIRS if case not in _SHAPES)),
        derivative(_js_by_x, 1),
    ),
)
