"""The truth: logsumexp, softmax and log_softmax to more digits than any dtype holds, and errors measured against it.

Numbers come from gmpy2 where it is installed, and from mpmath otherwise; both give the same truth, gmpy2 sooner. The
input is taken as exact: round it to the dtype first (`round_to`), so that the truth is the truth of what was given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

try:
    import gmpy2

    library = gmpy2

    NAME = f"gmpy2 {library.version()}"
    FAST = True
    number: Callable[[Any], Number] = library.mpfr
    precision: Callable[[int], Any] = lambda bits: library.context(precision=bits)  # noqa: E731
except ImportError:
    import mpmath

    library = mpmath

    NAME = f"mpmath {library.__version__}"
    FAST = False
    number = library.mpf
    precision = library.workprec

Number = Any  # gmpy2.mpfr or mpmath.mpf
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
Function = Literal["logsumexp", "softmax", "log_softmax"]

FUNCTIONS: tuple[Function, ...] = ("logsumexp", "softmax", "log_softmax")
# A result holds 106 bits (see Truth); the rest pays for rounding in sums of up to 10^8 terms and for exp of large
# arguments.
BITS = 160


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format: bits of the significand, and the exponents of `frexp` that it reaches."""

    bits: int
    largest: int
    smallest: int

    @property
    def roundoff(self) -> float:
        """The unit roundoff u."""
        return math.ldexp(1.0, -self.bits)


FORMATS = {
    "float64": Format(53, 1024, -1021),
    "float32": Format(24, 128, -125),
    "float16": Format(11, 16, -13),
    "bfloat16": Format(8, 128, -125),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """Exact values, elementwise ``(high + low) * 2**exponent``, and how sensitive they are to the input.

    `high` is in [½, 1) in magnitude and `low` below its last bit, so the pair holds 106 bits at any exponent: also
    where the value lies below every float64. A zero, an infinity or a NaN stands in `high` alone. `condition` is
    Σ_j |∂f/∂x_j|·|x_j|, with the temperature among the x_j unless it is 1.
    """

    high: FloatArray
    low: FloatArray
    exponent: np.ndarray[Any, np.dtype[np.int64]]
    condition: FloatArray

    @property
    def value(self) -> FloatArray:
        """The truth rounded to float64."""
        with np.errstate(over="ignore", under="ignore"):
            value: FloatArray = np.ldexp(self.high + self.low, self.exponent.astype(np.int32))
            return value

    def map(self, rearrange: Callable[[Any], Any]) -> Truth:
        """Each of the arrays, rearranged alike."""
        return Truth(*map(rearrange, (self.high, self.low, self.exponent, self.condition)))


# ---------------------------------------------------------------------------------------------------------------------
# One row


def logsumexp(x: Sequence[float], temperature: float = 1.0) -> Number:
    """log Σ_j exp(x_j / temperature), to at least 106 bits.

    Parameters
    ----------
    x : sequence of float
        Taken as exact.
    temperature : float
        At least 0. At 0 and at ∞ the value is the limit.

    Returns
    -------
    gmpy2.mpfr or mpmath.mpf
        −inf for no element or −inf only, +inf where +inf is present, NaN where NaN is.

    Raises
    ------
    ValueError
        If the temperature is negative or NaN.
    """
    return row(x, temperature)[0]


def softmax(x: Sequence[float], temperature: float = 1.0) -> list[Number]:
    """exp(x_i / temperature) / Σ_j exp(x_j / temperature), to at least 106 bits.

    Parameters
    ----------
    x : sequence of float
        Taken as exact.
    temperature : float
        At least 0. At 0 the ties of the maximum share; at ∞ all but −inf share.

    Returns
    -------
    list of gmpy2.mpfr or mpmath.mpf
        NaN throughout for a row of −inf only and for one that holds +inf or NaN.

    Raises
    ------
    ValueError
        If the temperature is negative or NaN.
    """
    return row(x, temperature)[1]


def log_softmax(x: Sequence[float], temperature: float = 1.0) -> list[Number]:
    """x_i / temperature − logsumexp(x / temperature), to at least 106 bits; otherwise as `softmax`."""
    return row(x, temperature)[2]


def row(
    x: Sequence[float] | FloatArray,
    temperature: float = 1.0,
    at: Sequence[int] | None = None,
    log_rest: Number | None = None,
) -> tuple[Number, list[Number], list[Number]]:
    """logsumexp, softmax and log_softmax of one row, which share their exponentials; the latter two at some places.

    `log_rest` is log Σ exp((x − max)/T) where it is known already: for a long row, that is nearly all of the work.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    x = np.asarray(x, dtype=np.float64)
    top = float(np.max(x, initial=-math.inf))  # NaN where one is
    if not math.isfinite(top):
        undefined = [number(math.nan)] * len(x if at is None else at)
        return number(top), undefined, undefined
    if temperature == 0 or math.isinf(temperature):
        return _limit(x.tolist(), top, temperature, at)
    # equal values have equal exponentials: a row of halves has few, however long it is
    values, counts = np.unique(x, return_counts=True)
    chosen = x if at is None else x[list(at)]
    bits = BITS
    while True:
        with precision(bits):
            terms = [] if log_rest is not None else list(zip(values.tolist(), counts.tolist(), strict=True))
            logs, probabilities, log_sum = _shifted(top, terms, chosen.tolist(), temperature, log_rest)
            shift = number(top) / number(temperature)
            total = shift + log_sum
            # The two can cancel, but never fully: by Lindemann's theorem a sum of exponentials of rational numbers
            # is 1 only where it is exp(0) alone, and then both are 0. So more bits always suffice.
            if total == 0 or abs(total) > abs(shift) * number(2.0 ** (120 - bits)):
                return total, probabilities, logs
        bits *= 2


def _shifted(
    top: float, terms: list[tuple[float, int]], chosen: list[float], temperature: float, log_rest: Number | None
) -> tuple[list[Number], list[Number], Number]:
    """log_softmax and softmax of the chosen entries, and log Σ exp((x − max)/T); `terms` are values and their counts.

    The sum is kept as 1 + rest: log1p(rest) has all its digits where the rest is tiny. Every other operation adds
    numbers of one sign, so nothing cancels.
    """
    t, largest = number(temperature), number(top)
    zero, minus_infinity = number(0.0), number(-math.inf)

    # a row of any length must fit into memory
    @functools.lru_cache(maxsize=1 << 17)
    def term(value: float) -> tuple[Number, Number]:
        if value == -math.inf:
            return minus_infinity, zero
        distance = (number(value) - largest) / t
        return distance, library.exp(distance)

    if log_rest is None:
        rest = sum((term(value)[1] * count for value, count in terms if value != top), zero)
        rest += sum(count for value, count in terms if value == top) - 1
        log_rest = library.log1p(rest)
        total = 1 + rest
    else:
        total = library.exp(log_rest)
    found = [term(value) for value in chosen]
    return [distance - log_rest for distance, _ in found], [e / total for _, e in found], log_rest


def _limit(
    x: Sequence[float], top: float, temperature: float, at: Sequence[int] | None
) -> tuple[Number, list[Number], list[Number]]:
    """The three at temperature 0 (the maximum alone) and ∞ (all that is not −inf)."""
    kept = [v == top if temperature == 0 else v != -math.inf for v in x]
    chosen = kept if at is None else [kept[i] for i in at]
    with precision(BITS):
        count = number(float(sum(kept)))
        share, log_count = 1 / count, library.log(count)
        total = log_count if temperature or top == 0 else number(math.copysign(math.inf, top))
        zero, minus_infinity = number(0.0), number(-math.inf)
        return total, [share if c else zero for c in chosen], [-log_count if c else minus_infinity for c in chosen]


# ---------------------------------------------------------------------------------------------------------------------
# An array


def truth(function: Function, x: FloatArray, axis: int = -1, temperature: float = 1.0) -> Truth:
    """The exact values of one function over one axis of an array.

    Parameters
    ----------
    function : {"logsumexp", "softmax", "log_softmax"}
    x : ndarray of float64
        Taken as exact: float16, bfloat16 and float32 values are float64 values too.
    axis : int
    temperature : float
        At least 0.

    Returns
    -------
    Truth
        In the shape of the result: without `axis` for logsumexp.
    """
    return truths(x, axis, temperature)[function]


def truths(
    x: FloatArray,
    axis: int = -1,
    temperature: float = 1.0,
    *,
    at: Sequence[int] | None = None,
    log_rest: Number | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[Function, Truth]:
    """The exact values of all three functions, in the time of one: they share their exponentials.

    Parameters
    ----------
    x, axis, temperature
        As in `truth`.
    at : sequence of int, optional
        Along `axis`, the places whose softmax and log_softmax are wanted; all of them if left out.
    log_rest : gmpy2.mpfr or mpmath.mpf, optional
        Of a single row, log Σ exp((x − max)/temperature), where it is known already.
    advance : callable
        Told of each row that is done, for a progress bar.

    Returns
    -------
    dict of str to Truth
    """
    moved = np.moveaxis(np.asarray(x, dtype=np.float64), axis, -1)
    batch, length = moved.shape[:-1], moved.shape[-1]
    places = np.arange(length) if at is None else np.asarray(at, dtype=np.int64)
    rows = moved.reshape(math.prod(batch), length)
    totals: list[Number] = []
    shares: list[Number] = []
    logs: list[Number] = []
    for line in rows:
        total, probabilities, log_probabilities = row(line, temperature, at, log_rest)
        totals.append(total)
        shares += probabilities
        logs += log_probabilities
        advance(1)
    log_p = parts(logs, (len(rows), len(places)))
    of_total, of_p, of_log_p = conditions(rows, places, log_p, temperature)

    def shaped(values: tuple[Any, ...], condition: FloatArray) -> Truth:
        exact = Truth(values[0], values[1], values[2], condition)
        if condition.ndim == 1:
            return exact.map(lambda part: part.reshape(batch))
        return exact.map(lambda part: np.moveaxis(part.reshape(*batch, len(places)), -1, axis))

    return {
        "logsumexp": shaped(parts(totals, (len(rows),)), of_total),
        "softmax": shaped(parts(shares, (len(rows), len(places))), of_p),
        "log_softmax": shaped(log_p, of_log_p),
    }


def parts(numbers: list[Number], shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Numbers as the three arrays of a `Truth`."""
    if not numbers:
        return np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    high, low, exponent = zip(*map(_split, numbers), strict=True)
    exact = np.array(exponent, dtype=np.int64).reshape(shape)
    return np.array(high).reshape(shape), np.array(low).reshape(shape), exact


def _split(number: Number) -> tuple[float, float, int]:
    rounded = float(number)
    if number == 0 or math.isnan(rounded) or (math.isinf(rounded) and number == rounded):
        return rounded, 0.0, 0
    significand, exponent = number.as_mantissa_exp() if FAST else number.man_exp
    significand, sign = int(abs(significand)), (1.0 if number > 0 else -1.0)
    excess = significand.bit_length() - 106
    leading = significand >> excess if excess > 0 else significand << -excess
    high, low = leading >> 53, leading & (2**53 - 1)
    # An exponent beyond ±4000 is beyond every format; it must fit an int64.
    scale = max(-4000, min(4000, int(exponent) + excess + 106))
    return sign * math.ldexp(high, -53), sign * math.ldexp(low, -106), scale


def conditions(
    x: FloatArray, places: np.ndarray[Any, Any], log_parts: tuple[Any, Any, Any], temperature: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Σ_j |∂f/∂x_j|·|x_j| for the three functions; float64 is plenty for a bound."""
    chosen = (len(x), len(places))
    if temperature == 0 or math.isinf(temperature) or not x.size:
        # the functions are constant between ties
        return np.zeros(len(x)), np.zeros(chosen), np.zeros(chosen)
    log_p = Truth(*log_parts, condition=log_parts[0]).value
    with np.errstate(all="ignore"):
        weight = np.exp((x - np.max(x, axis=-1, keepdims=True)) / temperature)
        weight /= np.sum(weight, axis=-1, keepdims=True)
        finite = np.where(np.isinf(x), 0.0, x)  # a −inf has weight 0 in every sum
        terms = weight * np.abs(finite)
        mean_size = np.sum(terms, axis=-1, keepdims=True)
        # Σ_{j≠i} p_j·|x_j|: for the largest p_i summed without it, where subtracting it would leave rounding errors
        others = mean_size - terms
        peak = np.argmax(weight, axis=-1, keepdims=True)
        np.put_along_axis(terms, peak, 0.0, axis=-1)
        np.put_along_axis(others, peak, np.sum(terms, axis=-1, keepdims=True), axis=-1)
        # 1 − p_i is -expm1(log p_i): near p = 1 it keeps its digits
        log_terms = -np.expm1(log_p) * np.abs(finite[:, places]) + others[:, places]
        total_terms = mean_size
        if temperature != 1.0:
            mean = np.sum(weight * finite, axis=-1, keepdims=True)
            distance = np.abs(finite - mean)
            # and so the distance of the largest p_i from the mean, as the others' from it
            apart = np.take_along_axis(finite, peak, axis=-1) - finite
            np.put_along_axis(distance, peak, np.abs(np.sum(weight * apart, axis=-1, keepdims=True)), axis=-1)
            log_terms = log_terms + np.where(np.isinf(x), 0.0, distance)[:, places]
            total_terms = total_terms + np.abs(mean)
        return total_terms[:, 0] / temperature, np.exp(log_p) * log_terms / temperature, log_terms / temperature


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def round_to(x: FloatArray, dtype: str) -> FloatArray:
    """The nearest values of a dtype (ties to even), as float64.

    Parameters
    ----------
    x : ndarray of float64
    dtype : {"float64", "float32", "float16", "bfloat16"}

    Returns
    -------
    ndarray of float64
        ±inf where `x` is beyond the dtype's range.
    """
    form = FORMATS[dtype]
    if dtype == "float64":
        return np.asarray(x, dtype=np.float64)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(x)
        last = np.maximum(exponent, form.smallest) - form.bits
        rounded = np.where(np.isfinite(x), np.ldexp(np.rint(np.ldexp(x, -last)), last), x)
        return np.where(np.abs(rounded) >= math.ldexp(1.0, form.largest), np.copysign(np.inf, x), rounded)


def ulp_error(computed: FloatArray, exact: Truth, dtype: str) -> FloatArray:
    """|computed − truth| in units in the last place of the truth.

    Parameters
    ----------
    computed : ndarray of float64
        Results in `dtype`, widened.
    exact : Truth
    dtype : {"float64", "float32", "float16", "bfloat16"}
        Its spacing at the correctly rounded truth is the unit; below the smallest normal number, the subnormal one.

    Returns
    -------
    ndarray of float64
        0 where the truth is special (NaN, or infinite once rounded) and the result equals it. NaN where only one of
        them is special, or where they differ in kind: that is not an error of so many ulp but a wrong answer.
    """
    last, overflow = _last_place(exact, dtype)
    special = ~np.isfinite(exact.high)
    with np.errstate(all="ignore"):
        scale = (exact.exponent - last).astype(np.int32)
        distance = np.ldexp(computed, (-last).astype(np.int32)) - np.ldexp(exact.high, scale)
        error = np.minimum(np.abs(distance - np.ldexp(exact.low, scale)), np.finfo(np.float64).max)
    infinite = np.where(overflow, np.copysign(np.inf, exact.high), exact.high)
    same = np.where(np.isnan(exact.high), np.isnan(computed), computed == infinite)
    error = np.where(special | ~np.isfinite(computed), np.nan, error)
    return np.where((special | overflow) & same, 0.0, error)


def budget(exact: Truth, dtype: str) -> FloatArray:
    """The stability contract in ulp of the truth: 4 + 2u·Σ_j |∂f/∂x_j|·|x_j| / ulp.

    Parameters
    ----------
    exact : Truth
    dtype : {"float64", "float32", "float16", "bfloat16"}

    Returns
    -------
    ndarray of float64
        What `ulp_error` may be at most; 4 where the truth is special.
    """
    last, _ = _last_place(exact, dtype)
    with np.errstate(all="ignore"):
        allowed = 4.0 + np.ldexp(2.0 * FORMATS[dtype].roundoff * exact.condition, (-last).astype(np.int32))
    return np.where(np.isfinite(exact.high) & ~np.isnan(allowed), allowed, 4.0)


def _last_place(exact: Truth, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The exponent of the last place of the correctly rounded truth, and where that truth overflows."""
    form = FORMATS[dtype]
    # rounding up to a power of two moves the truth to the next binade
    carried = (1.0 - np.abs(exact.high)) - np.abs(exact.low) <= 0.5 * form.roundoff
    exponent = exact.exponent + (carried & (exact.high != 0) & (exact.exponent >= form.smallest))
    exponent = np.where(exact.high == 0, form.smallest, exponent)
    overflow = np.isfinite(exact.high) & (exponent > form.largest)
    return np.clip(exponent, form.smallest, form.largest) - form.bits, overflow
