"""Elementwise functions between a number and its logarithm, and logsumexp's kin: their truths and their cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, LOGITS, MASKS, Case, Typed
from anysoft_conformance.oracle import FloatArray, Number, Truth
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem, exact, joined

INF, NAN = math.inf, math.nan
LOG_2 = math.log(2)
BITS = 2400  # exp(−745) beside 1 keeps 1300 bits


def of_mpmath(values: list[Any], conditions: list[float]) -> Truth:
    """Numbers of mpmath as a flat truth: by their digits, because gmpy2 takes no mpf."""
    with oracle.precision(2 * oracle.BITS):
        numbers: list[Number] = [oracle.number(mpmath.nstr(value, 60)) for value in values]
    return exact(numbers, conditions)


# ---------------------------------------------------------------------------------------------------------------------
# Of one number: f, f′ and f″; the condition of one order is |x| times the next


def _sigmoid(x: Any) -> tuple[Any, ...]:
    p, q = 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))
    return p, p * q, p * q * (q - p)


def _log1pexp(x: Any) -> tuple[Any, ...]:
    return mpmath.log1p(mpmath.exp(x)), *_sigmoid(x)[:2]


def _log_sigmoid(x: Any) -> tuple[Any, ...]:
    value, first, second = _log1pexp(-x)
    return -value, first, -second


def _log1mexp(x: Any) -> tuple[Any, ...]:
    q = -mpmath.exp(x) / mpmath.expm1(x)
    return mpmath.log(-mpmath.expm1(x)), -q, -q * (1 + q)


def _logexpm1(x: Any) -> tuple[Any, ...]:
    v, w = -1 / mpmath.expm1(-x), -1 / mpmath.expm1(x)  # v + w = 1
    return mpmath.log(mpmath.expm1(x)), v, v * w


def _logit(p: Any) -> tuple[Any, ...]:
    q = 1 - p
    return mpmath.log(p / q), 1 / p + 1 / q, 1 / q**2 - 1 / p**2


def elementwise(
    of_one: Callable[[Any], tuple[Any, ...]], special: dict[float, float], domain: tuple[float, float]
) -> Any:
    """The truth of a function of one number: outside its domain NaN, and where it is singular as the table says."""

    def truth(problem: Problem) -> tuple[Truth, ...]:
        return (_orders(problem)[0],)

    def gradient(problem: Problem) -> Truth:
        n = problem.x.size
        diagonal = _orders(problem)[1]
        whole = Truth(np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n), np.int64), np.zeros((n, n)))
        for name in ("high", "low", "exponent", "condition"):
            np.fill_diagonal(getattr(whole, name), getattr(diagonal, name).reshape(-1))
        return whole

    def _orders(problem: Problem) -> tuple[Truth, Truth]:
        values: list[tuple[Any, ...]] = []
        x = np.asarray(problem.x, dtype=np.float64)
        with mpmath.workprec(BITS):
            for one in x.ravel().tolist():
                if math.isnan(one) or not domain[0] <= one <= domain[1]:
                    values.append((mpmath.nan, mpmath.nan, 0))
                elif one in special:
                    values.append((mpmath.mpf(special[one]), mpmath.mpf(0), 0))
                else:
                    values.append(of_one(mpmath.mpf(one)))
            sizes = [abs(one) if math.isfinite(one) else 0.0 for one in x.ravel().tolist()]
            orders = [
                of_mpmath(
                    [value[order] for value in values],
                    [
                        float(abs(value[order + 1]) * size) if size else 0.0
                        for value, size in zip(values, sizes, strict=True)
                    ],
                )
                for order in (0, 1)
            ]
        return (orders[0].map(lambda part: part.reshape(x.shape)), orders[1])

    return truth, gradient


def _cases(name: str, special: tuple[float, ...], *cases: Case) -> tuple[Case, ...]:
    everywhere = (
        Case("special", special, "infinities, NaN, and where it is singular", (name,), derivatives=False),
        Case("point", special[0], "a 0-d array", (name,), derivatives=False),
        Case("empty", (), "nothing", (name,), derivatives=False),
        Case("integers", Typed("int8", (-1, 0, 1)), "become the default float first", (name,), dtypes=("float32",),
             derivatives=False),
        Case("matrix", ((-0.25, -0.5), (-0.75, 0.5)), "any shape", (name,), derivatives=False, layout="transposed"),
        Case("refuses_complex", Typed("complex64", (1j, 2)), "no order among them", (name,), dtypes=("float32",),
             raises=TypeError, match="complex64"),
    )  # fmt: skip
    return (*cases, *everywhere)


def _one(name: str, of_one: Any, special: dict[float, float], domain: tuple[float, float], *cases: Case) -> Subject:
    truth, gradient = elementwise(of_one, special, domain)
    return Subject(name, truth, _cases(name, (*special, NAN, *_beyond(domain)), *cases), gradient, along=False)


def _beyond(domain: tuple[float, float]) -> tuple[float, ...]:
    low, high = domain
    return (*((low - 0.5, -INF) if low > -INF else ()), *((high + 0.5, INF) if high < INF else ()))


def _case(name: str, x: tuple[Any, ...], why: str) -> Case:
    return Case(name, x, why)


ONE = (
    _one(
        "log1mexp", _log1mexp, {-INF: 0.0, 0.0: -INF}, (-INF, 0.0),
        _case("switch", (-LOG_2, -0.6931, -0.6932), "where one formula takes over from the other"),
        _case("xla_log1p", (-0.89, -0.8916, -0.9), "−exp(x) is near −0.41, where XLA's log1p fails (jax#39707)"),
        _case("small", (-1e-3, -1e-7, -1e-20, "-tiny"), "1 − exp(x) has no digits left"),
        _case("large", (-5.0, -17.0, -40.0, -80.0), "log(1 − exp(x)) has none"),
        _case("huge", (-740.0, -1e4, "-max"), "exp underflows"),
        _case("subnormal", ("-least", -100.0), "the smallest number of all; a result that is subnormal in float32"),
    ),
    _one(
        "log1pexp", _log1pexp, {-INF: 0.0, INF: INF}, (-INF, INF),
        _case("zero", (0.0, 1e-8, -1e-8, 1e-30), "the tie: log 2, ½ and ¼ (jax#2107)"),
        _case("threshold", (19.9, 20.0, 20.1, -20.0), "torch's softplus has a step here"),
        _case("negative", (-5.0, -17.0, -40.0, -80.0), "log(1 + exp(x)) has no digits left"),
        _case("far", (88.0, 100.0, 710.0, "max", -1e5, "-max"), "exp overflows and underflows"),
        _case("subnormal", ("least", -100.0), "the smallest number of all; a result that is subnormal in float32"),
    ),
    _one(
        "logexpm1", _logexpm1, {0.0: -INF, INF: INF}, (0.0, INF),
        _case("zero_of_value", (LOG_2, 0.6931, 0.6932, 0.69, 0.7), "the value is near 0"),
        _case("switches", (0.5799, 0.58, 0.8099, 0.81, 1.386), "where one formula takes over from the other"),
        _case("small", (1e-3, 1e-7, 1e-20, "tiny"), "exp(x) − 1 has no digits left"),
        _case("large", (17.0, 40.0, 89.0, 710.0, "max"), "exp overflows"),
    ),
    _one(
        "sigmoid", _sigmoid, {-INF: 0.0, INF: 1.0}, (-INF, INF),
        _case("zero", (0.0, 1e-8, -1e-8, 1e-30, -1e-3), "the second derivative changes sign"),
        _case("switch", (0.9999, 1.0, 1.0001, -0.9999, -1.0, -1.0001), "where one formula takes over"),
        _case("negative", (-17.0, -40.0, -80.0, -87.0), "1 − 1/(1 + exp(x)) is 0"),
        _case("far", (17.0, 40.0, 100.0, 800.0, "max", "-max"), "exp overflows and underflows"),
        _case("subnormal", (-88.0, -95.0, -103.0, -710.0, -740.0), "the result is (jax#16200)"),
    ),
    _one(
        "log_sigmoid", _log_sigmoid, {-INF: -INF, INF: 0.0}, (-INF, INF),
        _case("zero", (0.0, 1e-8, -1e-8), "the tie"),
        _case("confident", (17.0, 40.0, 80.0), "log(1/(1 + exp(−x))) is 0"),
        _case("far", (-88.0, -710.0, "-max", "max"), "exp overflows and underflows"),
        _case("subnormal", ("least", 100.0), "the smallest number of all; a result that is subnormal in float32"),
    ),
    _one(
        "logit", _logit, {0.0: -INF, 1.0: INF}, (0.0, 1.0),
        _case("half", (0.5, 0.5000001, 0.4999999, 0.500000000000001), "the value and f″ are near 0"),
        _case("switches", (0.375, 0.37499, 0.625, 0.62501, 0.25, 0.24999), "where one formula takes over"),
        _case("low", (1e-3, 1e-10, 1e-30, "tiny"), "1 − p is 1"),
        _case("high", (0.999, 0.9999999, 0.99999999999), "1 − p is exact"),
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Of two numbers


def _pairs(of_two: Callable[[Any, Any], tuple[Any, Any, Any]], special: Callable[[float, float], float | None]) -> Any:
    """The truth of a function of two arrays, from (f, ∂f/∂x, ∂f/∂y)."""

    def truth(problem: Problem) -> tuple[Truth, ...]:
        pairs = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in problem.arrays))
        values, conditions = [], []
        with mpmath.workprec(BITS):
            for x, y in zip(*(pair.ravel().tolist() for pair in pairs), strict=True):
                known = special(x, y)
                if known is not None:
                    values.append(mpmath.mpf(known))
                    conditions.append(0.0)
                    continue
                value, by_x, by_y = of_two(mpmath.mpf(x), mpmath.mpf(y))
                values.append(value)
                conditions.append(float(abs(by_x * x) + abs(by_y * y)))
            return (of_mpmath(values, conditions).map(lambda part: part.reshape(pairs[0].shape)),)

    return truth


def _logaddexp(x: Any, y: Any) -> tuple[Any, Any, Any]:
    d = x - y
    return max(x, y) + mpmath.log1p(mpmath.exp(-abs(d))), 1 / (1 + mpmath.exp(-d)), 1 / (1 + mpmath.exp(d))


def _logsubexp(x: Any, y: Any) -> tuple[Any, Any, Any]:
    d = x - y
    return x + mpmath.log(-mpmath.expm1(-d)), -1 / mpmath.expm1(-d), -1 / mpmath.expm1(d)


def _special_sum(x: float, y: float) -> float | None:
    if math.isnan(x) or math.isnan(y):
        return NAN
    return None if math.isfinite(x) and math.isfinite(y) else max(x, y)


def _special_difference(x: float, y: float) -> float | None:
    if math.isnan(x) or math.isnan(y) or x < y or x == y == INF:
        return NAN
    if x == y:
        return -INF
    return None if math.isfinite(x) and math.isfinite(y) else x


_ENDS = (-INF, INF, 2.0, NAN)
_EVERY = tuple(x for x in _ENDS for _ in _ENDS), tuple(y for _ in _ENDS for y in _ENDS)
PAIRS = (
    ("ties", (0.0, 3.0, -2e7), (0.0, 3.0, -2e7), "shares ½ and ½ (tensorflow#127232, keras#23616)"),
    ("dominated", (0.0, -40.0, 20.0), (-40.0, 0.0, 0.0), "log(1 + exp(−40)) is not 0"),
    ("close", (1.0, 100.0, 1e-3), (0.9990234375, 99.9375, 9e-4), "differences that cancel"),
    ("zero_of_sum", (-LOG_2, math.log(0.25), -0.0953), (-LOG_2, math.log(0.75), -2.398), "exp(x) + exp(y) is near 1"),
    ("zero_of_difference", (LOG_2, 0.7, 1.0), (0.0, -4.95, 0.5413248546), "exp(x) − exp(y) is near 1"),
    ("far", (1000.0, "max", -1000.0), (-1000.0, "-max", -1001.0), "exp overflows and underflows"),
    ("moderate", (0.5, 2.0, -7.0), (-1.25, 0.125, -9.0), "nothing special"),
    ("below", (0.5, -7.0, 1.0), (1.25, -6.0, 1.0009765625), "x is the smaller one"),
    ("special", *_EVERY, "infinities and NaN, each with each"),
    ("broadcast", ((0.5,), (2.0,)), (0.25, -1.0), "a column and a row"),
)
TWO = tuple(
    Subject(
        name,
        _pairs(of_two, special),
        tuple(Case(case, x, why, (name,), others=(y,), derivatives=False) for case, x, y, why in PAIRS),
        along=False,
    )
    for name, of_two, special in (
        ("logaddexp", _logaddexp, _special_sum),
        ("logsubexp", _logsubexp, _special_difference),
    )
)

# ---------------------------------------------------------------------------------------------------------------------
# Rows


def logmeanexp(problem: Problem) -> tuple[Truth, ...]:
    """log((1/n) Σ b·exp(x)) with n the number of entries that `where` keeps; NaN of none."""
    rows = truths.Rows(problem, "where", "b")
    found = []
    for line in rows.lines:
        kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)
        n = int(kept.sum())
        weights = np.broadcast_to(np.asarray(line.get("b", 1.0), dtype=np.float64), line["x"].shape)
        # a weight of 1/n is no binary number: the logarithm of n is subtracted, with all the bits that it takes
        (total,) = truths.logsumexp(Problem((line["x"],), -1, {"where": kept, "b": weights}))
        found.append(
            _less_log(line["x"][kept], weights[kept], n)
            if n and np.isfinite(total.high)
            else exact([oracle.number(float(total.high) if n else NAN)], [0.0])
        )
    return (rows.reduced(joined(found), keepdims=bool(problem.options.get("keepdims"))),)  # fmt: skip


def _less_log(x: FloatArray, b: FloatArray, n: int) -> Truth:
    with mpmath.workprec(BITS):
        terms = [
            mpmath.mpf(w) * mpmath.exp(mpmath.mpf(v))
            for v, w in zip(x.tolist(), b.tolist(), strict=True)
            if w and v > -INF
        ]
        total = mpmath.fsum(terms)
        sizes = [abs(v) + (w != 1) for v, w in zip(x.tolist(), b.tolist(), strict=True) if w and v > -INF]
        condition = float(sum(abs(t) * size for t, size in zip(terms, sizes, strict=True)) / abs(total))
        return of_mpmath([mpmath.log(total / n)], [condition])


def logcumsumexp(problem: Problem) -> tuple[Truth, ...]:
    """log of the sums of exp over each prefix, or each suffix with `reverse`; `exclusive` leaves the entry out."""
    rows = truths.Rows(problem)
    found = [_prefixes(line["x"], problem) for line in rows.lines]
    whole = rows.spread(joined(found), None if problem.at is None else len(problem.at))
    return (whole,)


def _prefixes(x: FloatArray, problem: Problem) -> Truth:
    n = x.size
    reverse, exclusive = bool(problem.options.get("reverse")), bool(problem.options.get("exclusive"))
    places = range(n) if problem.at is None else problem.at
    sums = []
    for i in places:
        part = x[i + exclusive :] if reverse else x[: i + (not exclusive)]
        sums.append(oracle.truths(part[None], -1, at=())["logsumexp"])
    return joined(sums)


_ROWS = (
    Case("mean_near_one", (1e-10, 3e-10, -2e-10), "logsumexp(x) − log n has no digits left"),
    Case("mean_near_one_uneven", (0.4054651081, -0.6931471806), "the same, of exponentials that differ"),
    Case("mean_near_one_pair", (0.06417756038811462, -0.06858050439513386), "the same"),
    Case("dominated_near_one", (0.6931, -40.0), "1 − p is lost where the mean is near 1"),
    Case("dominated_late", (-40.0, 0.0, -30.0), "the largest comes late"),
    Case("rising", (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5), "a new maximum at each step"),
    Case("falling", (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0), "and at none"),
    Case("absent_first", (-INF, -INF, 0.5, -INF, 1.5), "nothing at first (pytorch#52213, pytorch#196705)"),
    Case("infinite_first", (1.0, INF, -INF, 2.0), "infinite from then on"),
    Case("nan_late", (1.0, NAN, INF, -INF), "NaN from then on"),
    Case("matrix", ((0.0, 1.0, -3.0), (-INF, -INF, 2.0)), "rows", axis=-1),
    Case("columns", ((0.0, 1.0, -3.0), (-INF, -INF, 2.0)), "and columns", axis=0),
    Case("empty", ((), ()), "of nothing", axis=1),
    Case("integers", Typed("int8", (127, -128, 127)), "become the default float first", dtypes=("float32",)),
    Case("refuses_complex", Typed("complex64", (1j, 2)), "no order among them", dtypes=("float32",), raises=TypeError,
         match="complex64"),
    Case("refuses_axis", (1.0, 2.0), "an axis out of range", axis=3, dtypes=("float32",), raises=IndexError, match="3"),
)  # fmt: skip


def _for(name: str, *cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, on=(name,), derivatives=False) for case in cases)


_MEANS = (
    Case("weights", (0.5, -1.25, 2.0), "weights do not change n", options={"b": (1.5, 0.0, 0.25)}, dtypes=FLOATS),
    Case("weights_negative", (0.0, 1.0), "a negative mean has no logarithm", options={"b": (1.0, -1.0)}, dtypes=FLOATS),
    Case("kept", ((0.0, 1.0), (2.0, 3.0)), "reduced axes of length one", axis=(0, 1), options={"keepdims": True}),
    Case("axis_none", ((0.0, 1.0), (2.0, 3.0)), "all of them", axis=None),
    Case("axis_nothing", ((0.0, 1.0), (2.0, 3.0)), "reduces nothing: the identity", axis=()),
)
_RUNNING = (
    *(
        Case(
            f"running{'_reverse' * reverse}{'_exclusive' * exclusive}",
            (0.5, -1.25, 2.0, 0.125),
            "each prefix or suffix, with the entry or without",
            options={"reverse": reverse, "exclusive": exclusive},
        )
        for reverse in (False, True)
        for exclusive in (False, True)
    ),
    Case("refuses_axis_none", (1.0, 2.0), "an order needs one axis", axis=None, dtypes=("float32",), raises=TypeError,
         match="axis"),
)  # fmt: skip
ROWS = (
    Subject(
        "logmeanexp",
        logmeanexp,
        _for("logmeanexp", *LOGITS, *(case for case in MASKS if "logsumexp" in case.on), *_ROWS, *_MEANS),
    ),
    Subject("logcumsumexp", logcumsumexp, _for("logcumsumexp", *LOGITS, *_ROWS, *_RUNNING)),
)

SUBJECTS = (*ONE, *TWO, *ROWS)
