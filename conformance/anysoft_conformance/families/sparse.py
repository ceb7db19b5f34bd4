"""sparsemax and entmax: their truths, by exact rational arithmetic and by mpmath, and their cases."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, LOGITS, MASKS, RANDOM, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import Truth
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem, exact, joined

INF, NAN = math.inf, math.nan
Row = tuple[list[Any], list[int]]  # probabilities of the support, and where it is


# ---------------------------------------------------------------------------------------------------------------------
# One row


def _support(x: list[float], alpha: Any) -> Row:
    """The probabilities of a row of finite numbers and −inf that are not 0, and their places."""
    order = sorted((i for i, value in enumerate(x) if value > -INF), key=lambda i: -x[i])
    if alpha == 2:
        return _by_fractions(x, order)
    s = mpmath.mpf(alpha) - 1
    d = [s * (mpmath.mpf(x[order[0]]) - mpmath.mpf(x[i])) for i in order]

    def mass(level: Any) -> Any:
        return mpmath.fsum((level - each) ** (1 / s) for each in d if each < level)

    k = next((k for k in range(1, len(d)) if d[k] >= 1 or mass(d[k]) >= 1), len(d))
    level = _level(mass, d[:k], s, d[k - 1], min(d[k], mpmath.mpf(1)) if k < len(d) else mpmath.mpf(1))
    return [(level - each) ** (1 / s) for each in d[:k]], order[:k]


def _by_fractions(x: list[float], order: list[int]) -> Row:
    """sparsemax, of rational numbers: the support grows while the next entry is above the threshold without it."""
    total, count = Fraction(0), 0
    for i in order:
        value = Fraction(x[i])
        if count and count * value <= total - 1:
            break
        total, count = total + value, count + 1
    threshold = (total - 1) / count
    found = [Fraction(x[i]) - threshold for i in order[:count]]
    return [mpmath.mpf(each.numerator) / each.denominator for each in found], order[:count]


def _level(mass: Callable[[Any], Any], d: list[Any], s: Any, low: Any, high: Any) -> Any:
    """Where the mass is 1, by Newton's method inside a bracket that halves where Newton leaves it."""
    if s == 0.5:  # a quadratic equation
        mean = mpmath.fsum(d) / len(d)
        return mean + mpmath.sqrt((1 - mpmath.fsum((each - mean) ** 2 for each in d)) / len(d))
    level, least = high, mpmath.mpf(2) ** (8 - mpmath.mp.prec)
    while high - low > least * high:
        excess = mass(level) - 1
        low, high = (low, level) if excess >= 0 else (level, high)
        slope = mpmath.fsum((level - each) ** (1 / s - 1) for each in d if each < level) / s
        step = level - excess / slope if slope else low
        if abs(step - level) <= least * level:
            return step
        level = step if low < step < high else (low + high) / 2
    return level


@functools.lru_cache(maxsize=1024)
def _row(x: bytes, alpha: float) -> Truth:
    values = np.frombuffer(x)
    n = values.size
    if not n or not math.isfinite(float(np.max(values))):
        return exact([oracle.number(NAN)] * n, [0.0] * n)
    with mpmath.workprec(8 * oracle.BITS):
        p, at = _support(values.tolist(), alpha)
        w, sizes = [each ** (2 - mpmath.mpf(alpha)) for each in p], [abs(values[i]) for i in at]
        whole = mpmath.fsum(w)
        mean = mpmath.fsum(a * b for a, b in zip(w, sizes, strict=True))
        found, conditions = [mpmath.mpf(0)] * n, [0.0] * n
        for value, weight, size, i in zip(p, w, sizes, at, strict=True):
            found[i] = value
            conditions[i] = float(weight * ((1 - 2 * weight / whole) * size + mean / whole))
        if alpha not in (1.5, 2):  # a number that is rounded: one of the arguments
            step = mpmath.mpf(2) ** (-oracle.BITS)
            for i, value in zip(at, _support(values.tolist(), alpha + step)[0], strict=True):
                conditions[i] += float(abs(value - found[i]) / step * alpha)
        return of_mpmath(found, conditions)


def _truth_of(default: float) -> Callable[[Problem], tuple[Truth, ...]]:
    def truth(problem: Problem) -> tuple[Truth, ...]:
        alpha = float(problem.options.get("alpha", default))
        if alpha == 1:
            return truths.softmax(problem)
        rows = truths.Rows(problem, "where")
        found = []
        for line in rows.lines:
            kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), line["x"].shape)
            inner = _row(line["x"][kept].tobytes(), alpha)
            zeros = np.zeros(kept.size)
            whole = Truth(zeros.copy(), zeros.copy(), zeros.astype(np.int64), zeros.copy())
            for name in ("high", "low", "exponent", "condition"):
                getattr(whole, name)[kept] = getattr(inner, name)
            found.append(whole if problem.at is None else whole.map(lambda part: part[list(problem.at or ())]))
        return (rows.spread(joined(found), None if problem.at is None else len(problem.at)),)

    return truth


def _jacobian_of(alpha: float) -> Callable[[Problem], Truth]:
    """w_i (δ_ij − w_j / Σ w), with 1 − w_i / Σ w as a sum of the others; its condition from the second derivatives."""

    def jacobian(problem: Problem) -> Truth:
        x = problem.x.reshape(-1)
        kept = np.broadcast_to(np.asarray(problem.options.get("where", True), dtype=bool), x.shape)
        inside = np.flatnonzero(kept & (x > -INF))
        n = x.size
        with mpmath.workprec(8 * oracle.BITS):
            entries = [mpmath.mpf(0)] * (n * n)
            conditions = np.zeros((n, n))
            if inside.size:
                p, at = _support(x[inside].tolist(), alpha)
                places = inside[at]
                first, second = _derivatives(p, mpmath.mpf(alpha))
                size = np.abs(x[places])
                for a, i in enumerate(places):
                    for b, j in enumerate(places):
                        entries[i * n + j] = first[a][b]
                        conditions[i, j] = float(
                            mpmath.fsum(abs(each) * of for each, of in zip(second[a][b], size, strict=True))
                        )
            return of_mpmath(entries, conditions.reshape(-1).tolist()).map(lambda part: part.reshape(n, n))

    return jacobian


def _derivatives(p: list[Any], alpha: Any) -> tuple[list[list[Any]], list[list[list[Any]]]]:
    """∂p_i/∂x_j and ∂²p_i/∂x_j∂x_k over the support."""
    places = range(len(p))
    w = [each ** (2 - alpha) for each in p]
    whole = mpmath.fsum(w)
    # 1 − w_i / Σ w, and the shares of the others with their sign
    c = [
        [mpmath.fsum(w[k] for k in places if k != i) / whole if i == j else -w[j] / whole for j in places]
        for i in places
    ]
    slope = [[(2 - alpha) * p[i] ** (3 - 2 * alpha) * c[i][k] for k in places] for i in places]  # ∂w_i/∂x_k
    of_whole = [mpmath.fsum(slope[i][k] for i in places) for k in places]
    first = [[w[i] * c[i][j] for j in places] for i in places]
    second = [
        [
            [slope[i][k] * c[i][j] - w[i] * (slope[j][k] - w[j] / whole * of_whole[k]) / whole for k in places]
            for j in places
        ]
        for i in places
    ]
    return first, second


# ---------------------------------------------------------------------------------------------------------------------
# Cases

# Of corpus.LOGITS, those that are another thing here than for softmax. Derivatives of rows of four only, and without a
# mask: each other shape is one more function to compile, and says the same (tests/test_sparse.py has the masks).
_KEPT = (
    *("moderate", "zeros", "one", "dominated", "dominated_by_two", "dominated_many", "normalised", "huge", "near_tie"),
    *(
        "large_and_close",
        "far_and_close",
        "ties_past_unit_spacing",
        "largest",
        "opposite",
        "spread",
        "tiny",
        "subnormal",
    ),
    *("some_absent", "absent_but_one", "dead", "infinite", "infinite_both", "not_a_number", "nan_beside_absent"),
)


def _row_of(alpha: float, offsets: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(offset / (alpha - 1) for offset in offsets)


def _shared(alpha: float) -> tuple[Case, ...]:
    return (
        Case("uneven", _row_of(alpha, (0.3, 0.1, 0.25, -0.4)), "some of them"),
        Case("all_kept", _row_of(alpha, (0.01, 0.0, -0.01, 0.02)), "all of them"),
        Case("leader", _row_of(alpha, (0.9, 1e-4, 0.0, 2e-4)), "beside one that holds most, the others keep digits"),
        Case("at_the_threshold", _row_of(alpha, (1.0, 0.0, -1.0, 0.0)), "an entry at the threshold is not in it"),
        Case("near_the_threshold", _row_of(alpha, (0.9990234375, 0.0, -1.0, -2.0)), "and the least that is"),
        Case("eight", _row_of(alpha, (0.5, 0.375, 0.3125, 0.25, 0.125, 0.0625, 0.03125, 0.0)), "a longer row",
             derivatives=False),
        *(replace(case, derivatives=len(case.x) == 4) for case in LOGITS if case.name in _KEPT),
        *(replace(case, derivatives=False) for case in MASKS if "temperature" not in case.options),
        *(case for case in RANDOM if case.name != "random_bits"),
        Case("integers", Typed("int8", (127, -128, 127)), "become the default float first", dtypes=("float32",),
             derivatives=False),
        Case("columns", ((0.0, 1.0, -3.0), (-INF, -INF, 2.0)), "along the other axis", axis=0, derivatives=False),
        Case("point", 3.5, "a 0-d array is a row of one", derivatives=False),
        Case("empty", ((), ()), "rows of nothing", derivatives=False),
        Case("widened", (0.0, -0.3), "a result wider than the input is computed wide", options={"dtype": "float64"},
             dtypes=("float32", "float16"), derivatives=False),
        Case("refuses_complex", Typed("complex64", (1j, 2)), "no order among them", dtypes=("float32",),
             raises=TypeError, match="complex64"),
        Case("refuses_axis", (1.0, 2.0), "an axis out of range", axis=3, dtypes=("float32",), raises=IndexError,
             match="3"),
        Case("refuses_axis_none", (1.0, 2.0), "one axis", axis=None, dtypes=("float32",), raises=TypeError,
             match="axis"),
    )  # fmt: skip


def _by_keyword(case: Case) -> Case:
    """The axis among the options, because `alpha` comes before it."""
    return case if case.axis == -1 else replace(case, options={**case.options, "axis": case.axis})


def _alpha(name: str, x: Any, why: str, alpha: Any, **more: Any) -> Case:
    return Case(name, x, why, options={"alpha": alpha}, derivatives=False, **more)


_MODERATE = (0.5, -1.25, 2.0, 0.125)
_ALPHAS = (
    *(
        _alpha(f"alpha_{alpha}", _MODERATE, "any alpha", alpha, dtypes=FLOATS, full=alpha not in (1.0, 1.25, 3.0))
        for alpha in (1.0, 1.0009765625, 1.0625, 1.125, 1.25, 1.75, 2.0, 3.0, 8.0)
    ),
    *(
        _alpha(f"alpha_{alpha}_special", (-INF, 700.0, 700.0, -1e5), "of special values", alpha, dtypes=FLOATS)
        for alpha in (1.25, 3.0)
    ),
    _alpha("alpha_dead", (-INF, -INF, -INF, -INF), "nothing", 1.25, dtypes=FLOATS),
    *(
        _alpha(f"refuses_alpha_{alpha}", _MODERATE, "no such number", alpha, dtypes=("float32",), raises=ValueError,
               match="alpha must be at least 1")
        for alpha in (0.5, -1.0, INF, NAN)
    ),
    *(
        _alpha(f"refuses_alpha_{alpha}", _MODERATE, "no number", alpha, dtypes=("float32",), raises=TypeError,
               match="alpha must be a real number")
        for alpha in (None, "much")
    ),
)  # fmt: skip

SUBJECTS = (
    Subject("sparsemax", _truth_of(2.0), _shared(2.0), _jacobian_of(2.0), sums="value"),
    Subject(
        "entmax",
        _truth_of(1.5),
        (*map(_by_keyword, _shared(1.5)), *_ALPHAS),
        _jacobian_of(1.5),
        along=False,
        sums="value",
    ),
)
