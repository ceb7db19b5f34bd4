"""The exact answer to a problem: what each exported function should return, and its derivatives.

A problem is what a function is given, on the host and exact. Every truth is made row by row in high precision, with the
condition Σ_j |∂f/∂x_j|·|x_j| over all floating arguments, and says what design.md says about special values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

from anysoft_conformance import long_rows, oracle
from anysoft_conformance.oracle import FloatArray, Number, Truth, number, precision

INF, NAN = math.inf, math.nan
Axis = int | tuple[int, ...] | None
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """What a function is given: arrays as NumPy arrays that hold the exact values, options as it takes them.

    `dtype` is the one that the result must have, and `at` the places along the axis that are judged, if not all.
    """

    arrays: tuple[np.ndarray[Any, Any], ...]
    axis: Axis
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    at: tuple[int, ...] | None = None

    @property
    def x(self) -> np.ndarray[Any, Any]:
        """The first array."""
        return self.arrays[0]


# ---------------------------------------------------------------------------------------------------------------------
# Rows


class Rows:
    """A problem as rows along its axis: all operands broadcast together, the axis last.

    A row is a dict of what the function sees of it: ``x``, the arrays among the options, and the numbers as they are.
    """

    def __init__(self, problem: Problem, *operands: str) -> None:
        given = {"x": problem.x, **{name: problem.options[name] for name in operands if name in problem.options}}
        given = {name: value for name, value in given.items() if value is not None}
        if not np.iscomplexobj(problem.x):
            given["x"] = np.asarray(problem.x, dtype=np.float64)
        self.shape = np.broadcast_shapes(*(np.shape(value) for value in given.values()))
        ndim = len(self.shape)
        axis = tuple(range(ndim)) if problem.axis is None else problem.axis
        self.axes = tuple(a % max(ndim, 1) for a in ((axis,) if isinstance(axis, int) else axis))
        self.alone = ndim == 0 or not self.axes  # each entry is a row
        self.batch = tuple(n for i, n in enumerate(self.shape) if self.alone or i not in self.axes)
        self.lengths = () if self.alone else tuple(self.shape[a] for a in self.axes)
        count, length = math.prod(self.batch), math.prod(self.lengths)

        def flat(value: Any) -> np.ndarray[Any, Any]:
            whole = np.broadcast_to(value, self.shape)
            if not self.alone:
                whole = np.moveaxis(whole, self.axes, range(ndim - len(self.axes), ndim))
            return whole.reshape(count, length)

        columns = {name: flat(value) for name, value in given.items()}
        numbers = {name: value for name, value in problem.options.items() if name not in columns}
        self.lines: list[Line] = [
            {**numbers, **{name: column[i] for name, column in columns.items()}} for i in range(count)
        ]

    def reduced(self, truth: Truth, *, keepdims: bool) -> Truth:
        """One value a row, in the shape of the result."""
        shape = self.batch
        if keepdims and not self.alone:
            shape = tuple(1 if i in self.axes else n for i, n in enumerate(self.shape))
        return truth.map(lambda part: part.reshape(shape))

    def spread(self, truth: Truth, length: int | None = None) -> Truth:
        """As many values a row as it has entries (or `length` of them), in the shape of the result."""
        lengths = self.lengths if length is None else (length,)

        def rearranged(part: Any) -> Any:
            part = part.reshape(self.batch + lengths)
            if self.alone:
                return part
            return np.moveaxis(part, range(len(self.batch), part.ndim), self.axes)

        return truth.map(rearranged)


def exact(numbers: list[Number], condition: list[float] | FloatArray) -> Truth:
    """A flat `Truth` of numbers and the conditions that belong to them."""
    return Truth(*oracle.parts(numbers, (len(numbers),)), np.asarray(condition, dtype=np.float64).reshape(-1))


def joined(truths: Sequence[Truth]) -> Truth:
    """The truths of rows as one flat truth."""
    if not truths:
        return exact([], [])
    parts = ((t.high, t.low, t.exponent, t.condition) for t in truths)
    return Truth(*(np.concatenate([np.reshape(part, -1) for part in each]) for each in zip(*parts, strict=True)))


# ---------------------------------------------------------------------------------------------------------------------
# logsumexp


def logsumexp(problem: Problem) -> tuple[Truth, ...]:
    """log|Σ b·exp(x)|, and its sign with `return_sign`."""
    rows = Rows(problem, "where", "b")
    if any(np.iscomplexobj(line.get(name, 0.0)) for line in rows.lines for name in ("x", "b")):
        return _complex(rows, problem)
    found = [_weighted_row(line) if "b" in line else _plain_row(line, problem.at) for line in rows.lines]
    signed = bool(problem.options.get("return_sign"))
    keepdims = bool(problem.options.get("keepdims"))
    nan = exact([number(NAN)], [0.0])
    totals = [nan if sign < 0 and not signed else total for total, sign in found]
    shaped = (
        rows.reduced(joined(totals), keepdims=keepdims),
        rows.reduced(exact([number(sign) for _, sign in found], [0.0] * len(found)), keepdims=keepdims),
    )
    return shaped if signed else shaped[:1]


def _kept(line: Line) -> np.ndarray[Any, np.dtype[np.bool_]]:
    where = line.get("where", True)
    return np.broadcast_to(np.asarray(where, dtype=bool), line["x"].shape)


def _plain_row(line: Line, at: tuple[int, ...] | None) -> tuple[Truth, float]:
    truth = _of_row(line["x"][_kept(line)].tobytes(), 1.0, at)["logsumexp"]
    total = float(truth.high)
    return truth, NAN if math.isnan(total) else float(total != -INF)


def _weighted_row(line: Line) -> tuple[Truth, float]:
    total, sign, condition = _weighted(line)
    return exact([total], [condition]), sign


def _weighted(line: Line) -> tuple[Number, float, float]:
    """log|Σ b·exp(x)|, the sign of the sum, and the condition, with the weights among the arguments."""
    kept = _kept(line) & (line["b"] != 0)  # a zero weight removes its term, whatever x is
    x, b = line["x"][kept], np.broadcast_to(line["b"], line["x"].shape)[kept]
    with np.errstate(all="ignore"):
        special = np.where(x == -INF, b * 0.0, np.where(x == INF, np.sign(b) * INF, b))  # inf · exp(x), as IEEE has it
    if np.isnan(special).any() or np.isnan(x).any():
        return number(NAN), NAN, 0.0
    infinite = special[np.isinf(special)]
    if infinite.size:
        if (infinite > 0).any() and (infinite < 0).any():
            return number(NAN), NAN, 0.0
        return number(INF), float(np.sign(infinite[0])), 0.0
    weights: dict[float, Fraction] = {}
    for value, weight in zip(x.tolist(), b.tolist(), strict=True):
        if value != -INF:
            weights[value] = weights.get(value, Fraction(0)) + Fraction(weight)
    # By Lindemann and Weierstrass a sum of exponentials of distinct rationals is 0 only if all its weights are.
    weights = {value: weight for value, weight in weights.items() if weight}
    if not weights:
        return number(-INF), 0.0, 0.0
    finite = x != -INF
    return _resolved(weights, x[finite], b[finite])


def _resolved(weights: dict[float, Fraction], x: FloatArray, b: FloatArray) -> tuple[Number, float, float]:
    top, bits = max(weights), oracle.BITS
    log, exp = oracle.library.log, oracle.library.exp
    zero = list(weights) == [0.0] and abs(weights[0.0]) == 1
    while True:
        with precision(bits):
            shift = number(top)

            def power(value: float, shift: Number = shift) -> Number:
                return exp(number(value) - shift)

            terms = [number(w.numerator) / number(w.denominator) * power(v) for v, w in weights.items()]
            total, size = sum(terms, number(0.0)), sum(map(abs, terms), number(0.0))
            least = number(2.0 ** (120 - bits))
            if abs(total) > size * least:
                value = shift + log(abs(total))
                if zero or abs(value) > max(abs(shift), number(1.0)) * least:
                    condition = sum(
                        (
                            abs(number(w) * power(v) / total) * (abs(number(v)) + 1)
                            for v, w in zip(x.tolist(), b.tolist(), strict=True)
                        ),
                        number(0.0),
                    )
                    return value, 1.0 if total > 0 else -1.0, float(condition)
        bits *= 2


def _complex(rows: Rows, problem: Problem) -> tuple[Truth, ...]:
    """log Σ b·exp(z), the imaginary part in (−π, π]; the contract is for the modulus, and so for either part."""
    real, imaginary, conditions = [], [], []
    for line in rows.lines:
        kept = _kept(line)
        z = np.asarray(line["x"], dtype=np.complex128)[kept]
        b = np.broadcast_to(np.asarray(line.get("b", 1.0), dtype=np.complex128), kept.shape)[kept]
        with mpmath.workprec(4 * oracle.BITS):
            if np.isinf(z.real).any() or np.isnan(z).any():
                value, condition = _complex_special(z), 0.0
            else:
                terms = [mpmath.mpc(w) * mpmath.exp(mpmath.mpc(v)) for v, w in zip(z, b, strict=True)]
                total = mpmath.fsum(terms)
                value = mpmath.log(total)
                condition = float(
                    sum(abs(t) * (abs(v) + ("b" in line)) for t, v in zip(terms, z, strict=True)) / abs(total)
                )
            real.append(value.real)
            imaginary.append(value.imag)
            form = oracle.FORMATS[{"complex64": "float32"}.get(problem.dtype, "float64")]
            size = float(abs(value))
            ulp = math.ldexp(1.0, math.frexp(size)[1] - form.bits) if math.isfinite(size) else 0.0
            conditions.append(condition + 2.0 * ulp / form.roundoff)  # 4 ulp of the modulus, for either part
    keepdims = bool(problem.options.get("keepdims"))
    parts = (_of_mpmath(real, conditions), _of_mpmath(imaginary, conditions))
    return tuple(rows.reduced(part, keepdims=keepdims) for part in parts)


def _complex_special(z: np.ndarray[Any, Any]) -> Any:
    """Of infinite terms the sum of their phases counts; of nothing but −inf nothing is left."""
    if np.isnan(z).any():
        return mpmath.mpc(mpmath.nan, mpmath.nan)
    if (z.real == INF).any():
        phases = mpmath.fsum([mpmath.exp(mpmath.mpc(0, v.imag)) for v in z if v.real == INF])
        return mpmath.mpc(mpmath.inf, mpmath.arg(phases))
    finite = z[z.real != -INF]
    if not finite.size:
        return mpmath.mpc(-mpmath.inf, 0)
    return mpmath.log(mpmath.fsum([mpmath.exp(mpmath.mpc(v)) for v in finite]))


def _of_mpmath(values: list[Any], conditions: list[float]) -> Truth:
    """Numbers of mpmath as those of the oracle's library: by their digits, because gmpy2 takes no mpf."""
    with precision(2 * oracle.BITS):
        return exact([number(mpmath.nstr(value, 60)) for value in values], conditions)


# ---------------------------------------------------------------------------------------------------------------------
# softmax and log_softmax


def softmax(problem: Problem) -> tuple[Truth, ...]:
    """exp(x/T) / Σ exp(x/T); 0 for what `where` excludes."""
    return (_normalised(problem, "softmax"),)


def softmin(problem: Problem) -> tuple[Truth, ...]:
    """exp(−x/T) / Σ exp(−x/T); 0 for what `where` excludes."""
    return softmax(_negative(problem))


def _negative(problem: Problem) -> Problem:
    return replace(problem, arrays=(-np.asarray(problem.x, dtype=np.float64),))


def log_softmax(problem: Problem) -> tuple[Truth, ...]:
    """x/T − log Σ exp(x/T); −inf for what `where` excludes."""
    return (_normalised(problem, "log_softmax"),)


def _normalised(problem: Problem, function: oracle.Function) -> Truth:
    rows = Rows(problem, "where", "temperature")
    found = [_normalised_row(line, function, problem.at) for line in rows.lines]
    return rows.spread(joined(found), None if problem.at is None else len(problem.at))


def _normalised_row(line: Line, function: oracle.Function, at: tuple[int, ...] | None) -> Truth:
    x, kept = line["x"], _kept(line)
    # an array of temperatures has one for each row
    temperature = float(np.reshape(line.get("temperature", 1.0), -1)[0]) if x.size else 1.0
    excluded = np.full(x.size, 0.0 if function == "softmax" else -INF)
    if not temperature >= 0:
        excluded[kept] = NAN
        truth = Truth(excluded, np.zeros(x.size), np.zeros(x.size, np.int64), np.zeros(x.size))
        return truth if at is None else truth.map(lambda part: part[list(at)])
    if kept.all():
        return _of_row(x.tobytes(), temperature, at)[function]
    inner = _of_row(x[kept].tobytes(), temperature, None)[function]
    whole = Truth(excluded, np.zeros(x.size), np.zeros(x.size, np.int64), np.zeros(x.size))
    for name in ("high", "low", "exponent", "condition"):
        getattr(whole, name)[kept] = getattr(inner, name)
    return whole if at is None else whole.map(lambda part: part[list(at)])


@functools.lru_cache(maxsize=2048)
def _of_row(x: bytes, temperature: float, at: tuple[int, ...] | None) -> dict[oracle.Function, Truth]:
    """All three functions of one row, remembered because each is asked for in turn."""
    row = np.frombuffer(x)
    known = long_rows.shipped(row) if temperature == 1.0 and row.size >= long_rows.LEAST else None
    with precision(2 * oracle.BITS):
        log_rest = None if known is None else number(known)
    found = oracle.truths(row[None], -1, temperature, at=at, log_rest=log_rest)
    return {function: truth.map(lambda part: part[0]) for function, truth in found.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of one row, from closed forms


def gradient_of_logsumexp(problem: Problem) -> Truth:
    """softmax; 0 on a row of nothing but −inf, and +inf takes all, shared among its ties."""
    x, kept = problem.x.reshape(-1), _kept({"x": problem.x.reshape(-1), **problem.options})
    if not (x[kept] == INF).any() and (x[kept] > -INF).any():
        return _normalised_row({"x": x, **problem.options}, "softmax", None)
    top = kept & (x == INF)
    return exact([number(float(t) / max(int(top.sum()), 1)) for t in top], np.zeros(x.size))


def jacobian_of_softmax(problem: Problem) -> Truth:
    """p_i·(δ_ij − p_j), which is the Hessian of logsumexp too."""
    return _jacobian(problem, of_logarithm=False)


def jacobian_of_softmin(problem: Problem) -> Truth:
    """p_i·(p_j − δ_ij)."""
    found = jacobian_of_softmax(_negative(problem))
    return replace(found, high=-found.high, low=-found.low)


def jacobian_of_log_softmax(problem: Problem) -> Truth:
    """δ_ij − p_j."""
    return _jacobian(problem, of_logarithm=True)


def _jacobian(problem: Problem, *, of_logarithm: bool) -> Truth:
    """With 1 − p_i as the sum of all others, so that nothing cancels; 0 throughout on a dead row."""
    x, kept = problem.x.reshape(-1), _kept({"x": problem.x.reshape(-1), **problem.options})
    n, zero = x.size, number(0.0)
    inside = np.flatnonzero(kept & (x > -INF))
    entries = [[zero] * n for _ in range(n)]
    if not inside.size or (x[kept] == INF).any():
        return exact([zero] * (n * n), np.zeros(n * n)).map(lambda part: part.reshape(n, n))
    with precision(2 * oracle.BITS):
        p = dict(zip(inside.tolist(), oracle.row(x[inside])[1], strict=True))
        others = {i: sum((p[j] for j in p if j != i), zero) for i in p}
        for i in p:
            for j in p:
                entry = others[i] if i == j else -p[j]
                entries[i][j] = entry if of_logarithm else p[i] * entry
    if of_logarithm:
        # an entry of −inf has the derivative of its limit
        for i in np.flatnonzero(kept & (x == -INF)).tolist():
            entries[i] = [-p[j] if j in p else zero for j in range(n)]
            entries[i][i] += 1
    share = np.array([float(p.get(i, 0.0)) for i in range(n)])
    rest = np.array([float(others.get(i, 0.0)) for i in range(n)])
    size = np.where(share > 0, np.abs(np.where(np.isfinite(x), x, 0.0)), 0.0)
    with np.errstate(all="ignore"):
        # Σ_k |∂p_i/∂x_k|·|x_k| = p_i·spread_i
        spread = rest * size + np.array([np.delete(share * size, i).sum() for i in range(n)])
        if of_logarithm:
            conditions = np.broadcast_to(share * spread, (n, n))
        else:
            unit = np.eye(n)
            pairs = np.abs(unit[:, None, :] + unit[None, :, :] - 2.0 * share) @ size
            conditions = np.outer(share, share) * pairs
            np.fill_diagonal(conditions, np.abs(rest - share) * share * spread)
    return exact([v for row in entries for v in row], conditions).map(lambda part: part.reshape(n, n))
