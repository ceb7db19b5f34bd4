"""Condition numbers and error bounds: their truths, from the definitions, and their cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import oracle, truths
from anysoft_conformance.corpus import FLOATS, Case, Typed
from anysoft_conformance.families.logspace import of_mpmath
from anysoft_conformance.oracle import Format, Truth
from anysoft_conformance.subject import Subject
from anysoft_conformance.truths import Problem, joined

INF, NAN = math.inf, math.nan
STEP = 120  # bits of a relative step: plenty for a bound
Numbers = list[Any]  # of mpmath


def _shares(x: Numbers, t: Any) -> tuple[Numbers, Numbers, Any]:
    """softmax(x / t), what each share lacks, and log Σ exp(x / t) less the largest x / t."""
    top = max(x)
    e = [mpmath.exp((v - top) / t) for v in x]
    whole = mpmath.fsum(e)
    rests = [mpmath.fsum(e[:i] + e[i + 1 :]) for i in range(len(e))]
    return [v / whole for v in e], [v / whole for v in rests], mpmath.log1p(rests[x.index(top)])


def _moved(x: Numbers, t: Any) -> Numbers:
    """T·S_i: Σ_j |δ_ij − p_j|·|x_j|, and |x_i − Σ_j p_j·x_j| for a temperature that is not 1."""
    p, rest, _ = _shares(x, t)
    moved = []
    for i, v in enumerate(x):
        by_logits = rest[i] * abs(v) + mpmath.fsum(p[j] * abs(x[j]) for j in range(len(x)) if j != i)
        # x_i less the mean, as a sum of differences: a mean keeps no digit of what is far below it
        by_heat = abs(mpmath.fsum(p[j] * (v - x[j]) for j in range(len(x))))
        moved.append(by_logits + (by_heat if t != 1 else 0))
    return moved


def _values(of: str, x: Numbers, t: Any) -> Numbers:
    p, _, log_sum = _shares(x, t)
    if of == "softmax":
        return p
    top = max(x)
    return [top + log_sum] if of == "logsumexp" else [(v - top) / t - log_sum for v in x]


def _condition(of: str, kind: str, x: Numbers, t: Any) -> Any:
    """The definitions: norms of the Jacobian, or the largest movement of an entry."""
    p, rest, _ = _shares(x, t)
    f = _values(of, x, t)
    norm = max(map(abs, x))
    if of == "logsumexp":
        numerator = norm if kind == "normwise" else mpmath.fsum(w * abs(v) for w, v in zip(p, x, strict=True))
        return numerator / abs(f[0]) if f[0] else mpmath.mpf(0)
    if len(x) == 1:
        return mpmath.mpf(0)
    if kind == "componentwise":
        relative = of == "log_softmax"
        return max(s / t / (abs(v) if relative else 1) for s, v in zip(_moved(x, t), f, strict=True))
    rows = [q + mpmath.fsum(p[:i] + p[i + 1 :]) for i, q in enumerate(rest)]  # of |δ_ij − p_j|
    if of == "softmax":
        rows = [w * row for w, row in zip(p, rows, strict=True)]
    return max(rows) / t * norm / max(map(abs, f))


def _bounds(of: str, x: Numbers, t: Any, form: Format) -> tuple[Numbers, Numbers]:
    """4 ulp, a constant, and 2u·Σ_j |∂f/∂x_j|·|x_j|, for each entry of f."""
    p, _, _ = _shares(x, t)
    moved = _moved(x, t)
    if of == "logsumexp":
        terms = [mpmath.fsum(w * abs(v) for w, v in zip(p, x, strict=True))]
    else:
        terms = [s / t * (w if of == "softmax" else 1) for w, s in zip(p, moved, strict=True)]
    ulps = [_ulp(f, form) for f in _values(of, x, t)]
    return [4 * ulp for ulp in ulps], [2 * mpmath.mpf(form.roundoff) * term for term in terms]


def _ulp(f: Any, form: Format) -> Any:
    """The spacing at f once it is rounded; infinite where that overflows."""
    significand, exponent = mpmath.frexp(abs(f)) if f else (0, form.smallest)
    exponent += int(mpmath.nint(mpmath.ldexp(significand, form.bits)) == 2**form.bits)
    if exponent > form.largest:
        return mpmath.inf
    return mpmath.ldexp(mpmath.mpf(1), int(max(exponent, form.smallest)) - form.bits)


def _bits(x: Sequence[float]) -> int:
    """The logarithm of the largest: a step inside an exponential is to be small, however large what moves is."""
    return max(0, *(math.frexp(v)[1] for v in x if math.isfinite(v)))


def _precision(x: Sequence[float]) -> Any:
    return mpmath.workprec(3 * (STEP + 10 + _bits(x)))


def _sensitivities(of_point: Callable[[Numbers, Any], Numbers], x: Numbers, t: Any) -> list[float]:
    """Σ_k |∂g/∂x_k|·|x_k| for each entry of g, with T unless it is 1; a maximum has a slope on either side."""
    here = of_point(x, t)
    sums = [mpmath.mpf(0)] * len(here)
    step = mpmath.ldexp(mpmath.mpf(1), -STEP - _bits([float(v) for v in x]))
    for k in range(len(x) + (t != 1)):
        slopes = [mpmath.mpf(0)] * len(here)
        for side in (1 + step, 1 - step):
            moved = of_point([v * side if i == k else v for i, v in enumerate(x)], t * side if k == len(x) else t)
            slopes = [max(s, abs(m - h) / step) for s, m, h in zip(slopes, moved, here, strict=True)]
        sums = [s + slope for s, slope in zip(sums, slopes, strict=True)]
    return [float(s) for s in sums]


def _of_line(line: truths.Line) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """The row, which of it is kept, and its temperature."""
    x = line["x"]
    kept = np.broadcast_to(np.asarray(line.get("where", True), dtype=bool), x.shape)
    return x, kept, float(np.reshape(line.get("temperature", 1.0), -1)[0])


def _is_proper(x: Sequence[float]) -> bool:
    return len(x) > 0 and math.isfinite(max(x)) and not any(map(math.isnan, x))


def _one_condition(of: str, kind: str, line: truths.Line) -> Truth:
    x, kept, t = _of_line(line)
    if not _is_proper(x[kept].tolist()) or not t >= 0:
        return of_mpmath([mpmath.nan], [0.0])
    if t == 0 or math.isinf(t):
        return of_mpmath([mpmath.mpf(0)], [0.0])

    def at(point: Numbers, heat: Any) -> Numbers:
        return [_condition(of, kind, point, heat)]

    with _precision(x[kept].tolist()):
        point = [mpmath.mpf(v) for v in x[kept].tolist() if v > -INF]
        return of_mpmath(at(point, mpmath.mpf(t)), _sensitivities(at, point, mpmath.mpf(t)))


def condition_number(problem: Problem) -> tuple[Truth, ...]:
    """One number a row; NaN for one without a finite maximum."""
    rows = truths.Rows(problem, "where", "temperature")
    of, kind = problem.options["of"], problem.options.get("kind", "componentwise")
    found = [_one_condition(of, kind, line) for line in rows.lines]
    return (rows.reduced(joined(found), keepdims=bool(problem.options.get("keepdims"))),)


def _bounds_of_line(of: str, form: Format, line: truths.Line) -> Truth:
    x, kept, t = _of_line(line)
    least = mpmath.ldexp(mpmath.mpf(4), form.smallest - form.bits)  # 4 ulp of 0
    places = np.flatnonzero(kept & (x > -INF))
    # what softmax makes 0 is finite, and what log_softmax makes −inf is not; where the row is NaN, what is kept is
    absent = least if of == "softmax" else mpmath.nan
    whole: Numbers = [mpmath.nan] if of == "logsumexp" else [mpmath.nan if k else absent for k in kept.tolist()]
    conditions = [0.0] * len(whole)
    if not _is_proper(x[kept].tolist()) or not t >= 0:
        return of_mpmath(whole, conditions)

    with _precision(x[places].tolist()):
        point = [mpmath.mpf(v) for v in x[places].tolist()]
        if t == 0 or math.isinf(t):
            top = x[places].max()
            inside = [bool(t) or v == top for v in x[places].tolist()]
            share = mpmath.mpf(1) / sum(inside)
            value = share if of == "softmax" else mpmath.log(share)
            found = [4 * _ulp(value, form) if one else absent for one in inside]
            sensitivities = [0.0] * len(found)
        else:
            ulps, terms = _bounds(of, point, mpmath.mpf(t), form)
            found = [u + term if u < mpmath.inf else mpmath.nan for u, term in zip(ulps, terms, strict=True)]
            sensitivities = _sensitivities(lambda p, heat: _bounds(of, p, heat, form)[1], point, mpmath.mpf(t))
        if of == "logsumexp":
            return of_mpmath(found, sensitivities)
        whole = [absent] * x.size
        for place, value, condition in zip(places.tolist(), found, sensitivities, strict=True):
            whole[place], conditions[place] = value, condition
        return of_mpmath(whole, conditions)


def error_bound(problem: Problem) -> tuple[Truth, ...]:
    """4 ulp(f) + 2u·Σ_j |∂f/∂x_j|·|x_j|, for the dtype that the function would return."""
    rows = truths.Rows(problem, "where", "temperature")
    of = problem.options["of"]
    form = oracle.FORMATS[problem.options.get("dtype") or problem.dtype]
    found = joined([_bounds_of_line(of, form, line) for line in rows.lines])
    if of == "logsumexp":
        return (rows.reduced(found, keepdims=bool(problem.options.get("keepdims"))),)
    return (rows.spread(found),)


# ---------------------------------------------------------------------------------------------------------------------
# Cases

OF = ("logsumexp", "softmax", "log_softmax")
# all of one length, because JAX compiles for each; −inf is the same as nothing
ROWS = (
    Case("moderate", (0.5, -1.25, 2.0, 0.125), "nothing special"),
    Case("normalised", (math.log(0.25), math.log(0.75), -INF, -INF), "the sum is 1; no algorithm gives its logarithm"),
    Case("huge", (1000.0, 1000.0, 999.0, -INF), "exp overflows without a shift"),
    Case("largest", ("max", "max", "max", "max"), "so do sums of the numbers themselves"),
    Case("opposite", ("max", "-max", -INF, -INF), "and their differences"),
    Case("leading", (-1.0, 3.0, 1.5, -0.75), "one holds more than half, and not all"),
    Case("dominated", (0.0, -40.0, -41.0, -INF), "one holds all but 6e-18"),
    Case("half", (2.0, 2.0, -50.0, -INF), "two hold a half each"),
    Case("underflowing", (0.0, -1000.0, -INF, -INF), "value and movement underflow, their ratio is 1000"),
    Case("underflowing_late", (-999.0, 1.5, -INF, -INF), "the same of the largest share's logarithm, in both signs"),
    Case("one", (-INF, -3.5, -INF, -INF), "an entry alone has probability 1, whatever it is"),
    Case("one_zero", (0.0, -INF, -INF, -INF), "f = 0, which no relative error changes"),
    Case("dead", (-INF, -INF, -INF, -INF), "nothing that could have a condition"),
    Case("infinite", (INF, 1.0, -INF, 2.0), "nor has what is infinite"),
    Case("not_a_number", (NAN, 1.0, -INF, 2.0), "NaN is never swallowed"),
)
MASKED = tuple(
    Case(name, x, why, options={"where": where}, dtypes=("float64",))
    for name, x, where, why in (
        ("masked", (NAN, 1.0, 0.25, INF), (False, True, True, False), "what is excluded is never looked at"),
        ("masked_out", (NAN, 1.0, 0.25, INF), (False, False, False, False), "nothing left"),
        ("masked_dead", (-INF, 1.0, 0.25, INF), (True, False, False, False), "only −inf left"),
    )
)
HEATED = tuple(
    Case(f"{name}_at_{heat}", x, "the temperature is an argument, unless it is 1", dtypes=("float32",),
         options={"temperature": Typed("float32", (heat,))})
    for name, x, heats in (
        ("leading", (-1.0, 3.0, 1.5, -0.75), (0.25, 1.0, 0.0, INF, NAN)),
        ("moderate", (0.5, -1.25, 2.0, 0.125), (3.0,)),
    )
    for heat in heats
)  # fmt: skip
# in the norm less can go wrong
NORMWISE = (
    *("moderate", "normalised", "huge", "opposite", "leading", "half", "underflowing", "one_zero", "dead"),
    *("leading_at_0.25", "leading_at_0.0"),
)
SHAPES = tuple(
    replace(case, dtypes=("float32",))
    for case in (
        Case("axis_none", ((0.5, 1.5), (-2.0, 0.25)), "all of them are one row", axis=None),
        Case("axis_nothing", ((0.5, 1.5), (-2.0, 0.25)), "each is a row", axis=()),
        Case("columns", ((0.5, 1.5), (-2.0, 0.25)), "the other axis, kept", axis=0, options={"keepdims": True}),
        Case("point", 0.75, "a 0-d array is one entry"),
        Case("empty", ((), ()), "nothing, which has no condition"),
        Case("integers", Typed("int8", (127, -128, 127)), "become the default float first"),
        Case("refuses_complex", Typed("complex64", (1j, 2)), "no order among them", raises=TypeError,
             match="complex64"),
    )
)  # fmt: skip


def _cases(name: str, *cases: Case, of: str, **options: Any) -> tuple[Case, ...]:
    return tuple(
        replace(case, name="_".join([of, *options.values(), case.name]), on=(name,), derivatives=False,
                options={"of": of, **options, **case.options}, dtypes=case.dtypes or FLOATS)
        for case in cases
    )  # fmt: skip


def _of_all(name: str, **options: Any) -> tuple[Case, ...]:
    """Of each function, at temperatures where it has one."""
    normwise = "normwise" in options.values()
    found: list[Case] = []
    for of in OF:
        cases = (*ROWS, *MASKED) if of == "logsumexp" else (*ROWS, *MASKED, *HEATED)
        found += _cases(name, *(c for c in cases if not normwise or c.name in NORMWISE), of=of, **options)
    return tuple(found)


def _of_halves(name: str, *functions: str) -> tuple[Case, ...]:
    """A few in halves, whose condition numbers and bounds are in float32."""
    return tuple(
        Case(f"{of}_{dtype}_{row}", x, why, (name,), dtypes=(dtype,), result="float32", derivatives=False,
             options={"of": of, **({"dtype": dtype} if name == "error_bound" else {})})
        for of in functions
        for dtype in ("float16", "bfloat16")
        for row, x, why in (
            ("moderate", (0.5, -1.25, 2.0, 0.125), "computed and returned in float32"),
            ("dominated", (0.0, -12.0, -14.0, -INF), "a result that is subnormal in float16"),
        )
    )  # fmt: skip


REFUSALS = (
    Case("refuses_of", (1.0, 2.0), "an unknown function", options={"of": "logmeanexp"}, match="'logmeanexp'"),
    Case("refuses_kind", (1.0, 2.0), "an unknown kind", options={"kind": "mixed"}, match="'mixed'"),
    Case("refuses_temperature", (1.0, 2.0), "a negative one", options={"of": "softmax", "temperature": -1.0},
         match="-1.0"),
    Case("refuses_temperature_of_logsumexp", (1.0, 2.0), "it has none", options={"temperature": 2.0}, match="2.0",
         raises=TypeError),
)  # fmt: skip


def _refusals(name: str) -> tuple[Case, ...]:
    return tuple(
        replace(case, on=(name,), dtypes=("float32",), raises=case.raises or ValueError, derivatives=False)
        for case in REFUSALS
        if name == "condition_number" or "kind" not in case.options
    )


SUBJECTS = (
    Subject(
        "condition_number",
        condition_number,
        (
            *_of_all("condition_number"),
            *_of_all("condition_number", kind="normwise"),
            *_cases("condition_number", *SHAPES, of="softmax"),
            *_of_halves("condition_number", "logsumexp"),
            *_refusals("condition_number"),
        ),
        along="named",
    ),
    Subject(
        "error_bound",
        error_bound,
        (
            *_of_all("error_bound"),
            *_cases("error_bound", *SHAPES, of="logsumexp"),
            *_cases("error_bound", *SHAPES[:4], of="softmax"),
            *_of_halves("error_bound", *OF),
            *_refusals("error_bound"),
        ),
        along="named",
    ),
)
