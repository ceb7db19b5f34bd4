"""log Σ b·exp(x): real, weighted and complex; and the logarithm of the mean."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft import registry
from anysoft._shift import Scaled, carrier_of, exponentiate, in_range, log_of_sum, shift_for, total
from anysoft.registry import _BY_TYPE, Backend, Operation

Array = Any


def logsumexp(
    x: Array,
    /,
    axis: Any = None,
    *,
    where: Array | None = None,
    b: Array | None = None,
    dtype: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    r"""The logarithm of the sum of exponentials, log Σ b·exp(x), without overflow and exact near zero.

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float. Complex is allowed.
    axis : int, tuple of int or None
        What to reduce; None is all axes, ``()`` none.
    where : boolean array, optional
        Which entries count. What it excludes is never looked at, NaN included.
    b : array, optional
        Weights of the exponentials, of either sign. A zero removes its term, whatever x is there.
    dtype : dtype, optional
        The result's dtype. The sum is made in the wider of this and the natural one, and in float32 at least.
    keepdims : bool
        Keep reduced axes with length one.
    return_sign : bool
        Return log|Σ b·exp(x)| and the sign of the sum, or its phase if the sum is complex.

    Returns
    -------
    array, or a tuple of two arrays with `return_sign`
        The shape of `x`, `b` and `where` broadcast together, less the reduced axes; dtype as ``result_type(x, b)``.
        The sign is of the result's dtype: −1, 0 or 1, or a complex number of modulus 1 or 0.

    Notes
    -----
    Special values: nothing to sum, or −inf only, is −inf (sign 0); with +inf it is +inf; a NaN that counts gives NaN.
    Without `return_sign`, a negative sum is NaN. An infinite weight follows IEEE, inf · exp(x). For complex input the
    imaginary part is in (−π, π].

    The derivative is softmax; it is 0 at excluded entries, on rows of nothing but −inf and at the finite neighbours of
    +inf, and ties share.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, a dtype that is no number's, a mask that is not boolean.
    ValueError
        For a repeated axis and for shapes that do not broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41,
    2021. The arguments are those of ``scipy.special.logsumexp``.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.logsumexp(np.array([1000.0, 1000.0])))
    1000.6931471805599
    >>> print(anysoft.logsumexp([0.0, -40.0]))
    4.248354255291589e-18
    >>> value, sign = anysoft.logsumexp([1.0, 2.0], b=[1, -1], return_sign=True)
    >>> print(value, sign)
    1.5413248546129183 -1.0
    """
    backend = _BY_TYPE.get(x.__class__)  # the path that most calls take, straight: see Operation.first
    first = None if backend is None else _first.get(backend.name)
    if first is not None and not registry._options_in_use:
        result = first(x, axis, where, b, dtype, keepdims, return_sign)
        if result is not NotImplemented:
            return result
    return _call(where is None and b is None, x, axis, where, b, dtype, keepdims, return_sign)


def logmeanexp(
    x: Array,
    /,
    axis: Any = None,
    *,
    where: Array | None = None,
    b: Array | None = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The logarithm of the mean of exponentials, log((1/n) Σ b·exp(x)), without overflow and exact near zero.

    Parameters
    ----------
    x, axis, where, b, dtype, keepdims
        As for `logsumexp`; `x` is real.

    Returns
    -------
    array
        The shape of `x`, `b` and `where` broadcast together, less the reduced axes; dtype as ``result_type(x, b)``.

    Notes
    -----
    The denominator n is the number of entries that `where` keeps, whatever their weights: an entry of weight 0 counts.
    The weighted average, with Σ b for n, is ``logsumexp(x, b=b) - logsumexp(zeros_like(x), b=b)``.

    Special values: the mean of nothing is NaN; of −inf only it is −inf; with +inf it is +inf; a NaN that counts gives
    NaN, and so does a negative mean. Weights, and the derivative, are as for `logsumexp`.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings: it does not lose the digits
    that ``logsumexp(x) - log(n)`` does.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `logsumexp`; `TypeError` for complex input too.

    References
    ----------
    ``jax.nn.logmeanexp``, which counts alike; LogExpFunctions.jl, ``logmeanexp``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.logmeanexp([1000.0, 1000.0]))
    1000.0
    >>> print(anysoft.logmeanexp([1e-20, 1e-20]))
    1e-20
    """
    return _call_logmeanexp(where is None and b is None, x, axis, where, b, dtype, keepdims)


def _logsumexp(
    backend: Backend,
    x: Array,
    axis: Any,
    where: Array | None,
    b: Array | None,
    dtype: Any,
    keepdims: bool,
    return_sign: bool,
) -> Any:
    xp = backend.namespace(x)
    natural = arguments.float_dtype(xp, {"x": x} if b is None else {"x": x, "b": b})
    dtype = arguments.result_dtype(xp, natural, dtype, complex_too=True)
    compute = arguments.carrier(xp, xp.result_type(natural, dtype))
    x, where, b, axes, appended = _prepared(xp, x, axis, where, b, compute)
    value: Array
    sign: Array | None
    if any(x.shape[axis] == 0 for axis in axes):
        value = xp.sum(x, axis=axes, keepdims=True) - xp.inf
        sign = xp.zeros_like(value)
    elif xp.isdtype(compute, "complex floating"):
        value, sign = _complex(backend, x, b, axes, return_sign)
    elif b is not None:
        value, sign = _weighted(backend, x, b, axes)
        if not return_sign:
            value = xp.where(sign < 0, xp.full_like(value, xp.nan), value)
    else:
        value = _real(backend, x, axes)
        sign = xp.where(value == -xp.inf, xp.zeros_like(value), xp.ones_like(value)) if return_sign else None

    results = [value] if sign is None or not return_sign else [value, sign]
    results = [_finish(xp, one, dtype, axes, keepdims and not appended) for one in results]
    return (results[0], results[1]) if return_sign else results[0]


def _logmeanexp(
    backend: Backend, x: Array, axis: Any, where: Array | None, b: Array | None, dtype: Any, keepdims: bool
) -> Array:
    xp = backend.namespace(x)
    natural = arguments.float_dtype(xp, {"x": x} if b is None else {"x": x, "b": b})
    if not xp.isdtype(natural, "real floating"):
        raise TypeError(f"logmeanexp is of real numbers, not {natural}")
    dtype = arguments.result_dtype(xp, natural, dtype)
    compute = arguments.carrier(xp, xp.result_type(natural, dtype))
    x, where, b, axes, appended = _prepared(xp, x, axis, where, b, compute)
    if any(x.shape[axis] == 0 for axis in axes):
        value = xp.sum(x, axis=axes, keepdims=True) + xp.nan
    else:
        kept = xp.ones_like(x) if where is None else xp.astype(arguments.broadcast_to(xp, where, x.shape), x.dtype)
        count = total(backend, kept, axes)
        n = xp.where(count == 0, xp.ones_like(count), count)
        if b is None:
            value = _mean(backend, x, kept, n, axes)
        else:
            value, sign = _weighted(backend, x, b, axes, n)
            value = xp.where(sign < 0, xp.full_like(value, xp.nan), value)
        value = xp.where(count == 0, xp.full_like(value, xp.nan), value)
    return _finish(xp, value, dtype, axes, keepdims and not appended)


def _prepared(
    xp: Any, x: Array, axis: Any, where: Array | None, b: Array | None, compute: Any
) -> tuple[Array, Array | None, Array | None, tuple[int, ...], bool]:
    """`x` and `b` in the dtype to compute in, with nothing where masked; the axes, and whether one was added."""
    x = xp.astype(x, compute, copy=False)
    if b is not None:
        b = arguments.as_array(xp, b, compute, x)
    x, where, b = _together(xp, x, where, b)
    axes = arguments.canonical_axes(axis, x.ndim)
    appended = x.ndim == 0 or not axes
    if appended:  # one element, or nothing to reduce: an axis of length one to reduce instead
        axes = (x.ndim,)
        x, where, b = (None if a is None else xp.expand_dims(a, axis=a.ndim) for a in (x, where, b))
    if where is not None:
        x = xp.where(where, x, xp.full_like(x, -xp.inf))
        b = None if b is None else xp.where(where, b, xp.zeros_like(b))
    return x, where, b, axes, appended


def _together(xp: Any, x: Array, where: Array | None, b: Array | None) -> tuple[Array, Array | None, Array | None]:
    """`x` with the shape of all, so that an axis means the same for each; the mask and weights with its rank."""
    if where is None and b is None:
        return x, None, None
    shapes = {"x": x.shape}
    if b is not None:
        shapes["b"] = b.shape
    if where is not None:
        where = arguments.as_mask(xp, where, x)
        shapes["where"] = where.shape
    shape = arguments.broadcast_shape(**shapes)
    x = arguments.broadcast_to(xp, x, shape)
    return x, arguments.with_rank(xp, where, len(shape)), None if b is None else arguments.broadcast_to(xp, b, shape)


def _finish(xp: Any, value: Array, dtype: Any, axes: tuple[int, ...], keepdims: bool) -> Array:
    if xp.isdtype(value.dtype, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        dtype = value.dtype
    elif xp.isdtype(dtype, "complex floating") and not xp.isdtype(value.dtype, "complex floating"):
        dtype = xp.real(xp.zeros((), dtype=dtype)).dtype  # the logarithm of a modulus
    value = xp.astype(value, dtype, copy=False)
    return value if keepdims else arguments.without_axes(value, axes)


def _real(backend: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    # c + log1p(rest), rest = r + (k − 1): for c = max, k counts the ties and k − 1 is exact, however small r is
    xp = backend.namespace(x)
    peak, rows, maximum = _exponentials(backend, x, axes)
    value = shift_for(xp, maximum) + log_of_sum(backend, rows)
    value = xp.where(rows.dead, xp.full_like(value, -xp.inf), value)
    return xp.where(peak == xp.inf, peak, value)


def _exponentials(backend: Backend, x: Array, axes: tuple[int, ...]) -> tuple[Array, Scaled, Array]:
    """The maximum; the exponentials of rows in which the largest number is in place of +inf; and their maximum."""
    xp = backend.namespace(x)
    peak = xp.max(x, axis=axes, keepdims=True)
    # +inf answers by itself, with the derivative of a maximum; in between it would make NaN of its neighbours' zeros
    largest = float(xp.finfo(x.dtype).max)
    x = xp.where(x == xp.inf, xp.full_like(x, largest), x)
    maximum = backend.stop_gradient(xp.where(peak == xp.inf, xp.full_like(peak, largest), peak))
    return peak, exponentiate(backend, x, axes, maximum, None), maximum


def _mean(backend: Backend, x: Array, kept: Array, n: Array, axes: tuple[int, ...]) -> Array:
    # Where the mean is near 1, its logarithm is log1p of the mean of exp(x) − 1. Value and derivatives come from
    # different forms: that mean would lose the small shares, and the sums lose the value.
    xp = backend.namespace(x)
    peak, rows, maximum = _exponentials(backend, x, axes)
    fixed, k, r = (backend.stop_gradient(each) for each in (x, rows.k, rows.r))
    # exp(x) − 1 where it is less than −½ rounds once more, but expm1 of XLA rounds as much
    excess = xp.where(fixed > -0.7, xp.expm1(fixed), xp.exp(fixed) - 1.0)
    excess = total(backend, xp.where(kept == 0, xp.zeros_like(x), excess), axes) / n
    near = (excess > -0.25) & (excess < 1)  # XLA's log1p loses 7 bits near −0.41 (jax#39707)
    value = xp.where(
        near, xp.log1p(xp.where(near, excess, xp.zeros_like(n))), shift_for(xp, maximum) + xp.log((k + r) / n)
    )
    slope = log_of_sum(backend, rows)
    value = backend.stop_gradient(value) + (slope - backend.stop_gradient(slope))
    value = xp.where(rows.dead, xp.full_like(value, -xp.inf), value)
    return xp.where(peak == xp.inf, peak, value)


class Weighted(NamedTuple):
    """Weighted rows, Σ b·exp(x) = exp(c)·root²·(k + r), if none of these says what the sum is without them."""

    peak: Array  # the largest x + log|b|
    c: Array
    root: Array
    k: Array
    r: Array
    tied: Array  # which terms are in k
    exponent: Array  # of each term
    infinite: Array  # the answer where +inf is, with the derivative of a maximum
    up: Array  # whether a term is +inf, and whether one is −inf
    down: Array
    undefined: Array


def weighted(backend: Backend, x: Array, b: Array, axes: tuple[int, ...]) -> Weighted:
    """The two sums of weighted rows, in which no term leaves the range unless the sum does.

    The largest term is found by x + log|b|, never by x alone; but a term is (b/s)·exp(x − c) with s of the size of the
    largest term's weight, because log|b| inside the exponent would cost |log b| roundings where terms cancel.
    """
    xp = backend.namespace(x)
    zero, one, low = xp.zeros_like(x), xp.ones_like(x), xp.full_like(x, -xp.inf)
    removed = b == 0
    x = xp.where(removed & ~(xp.abs(x) < xp.inf), low, x)  # a finite x stays: ∂/∂b at b = 0 is exp(x)/Σ
    fixed, weight = backend.stop_gradient(x), backend.stop_gradient(b)

    log_b = xp.where(removed, low, xp.log(xp.where(removed, one, xp.abs(weight))))
    key = xp.where(removed, low, fixed + log_b)
    peak = xp.max(key, axis=axes, keepdims=True)
    infinite = peak == xp.inf
    undefined = xp.isnan(peak)
    tied = key == peak
    limit = in_range(xp, x.dtype)
    c = xp.max(xp.where(tied, fixed, low), axis=axes, keepdims=True)
    spread = xp.where(xp.abs(peak) < xp.inf, peak - c, xp.zeros_like(peak))  # log|b| of the largest term
    c = xp.where((xp.abs(c) <= limit) | ~(xp.abs(peak) < xp.inf), xp.zeros_like(c), c)
    # s as a square, because a compiler may divide by multiplying with 1/s, and flush that to 0 (XLA does)
    root = xp.where(xp.abs(spread) < limit, xp.ones_like(spread), xp.exp(0.5 * spread))
    log_s = 2.0 * xp.log(root)

    d = x - c
    # Further apart, b/s or exp(d) alone would leave the range; but there |x| or |c| is large, and so is what the
    # contract allows for one rounding of it.
    plain = (xp.abs(backend.stop_gradient(d)) < 1.8 * limit) | removed
    capped = xp.where(removed & (d > limit), xp.full_like(d, limit), d)
    exponent = xp.where(plain, capped, d + (log_b - log_s))
    exponent = xp.where(infinite | undefined, zero, exponent)
    term = xp.where(plain, b / root / root, b / xp.where(removed, one, xp.abs(weight))) * xp.exp(exponent)
    term = xp.where(infinite, zero, term)

    k = total(backend, xp.where(tied, term, zero), axes)
    r = total(backend, xp.where(tied, zero, term), axes)

    # infinite terms of one sign make that infinity, of both NaN; +inf in x answers with the derivative of a maximum
    endless = key == xp.inf
    up = xp.any(endless & (weight > 0), axis=axes, keepdims=True)
    down = xp.any(endless & (weight < 0), axis=axes, keepdims=True)
    highest = xp.max(x, axis=axes, keepdims=True)
    answer = xp.where(highest == xp.inf, highest, xp.full_like(peak, xp.inf))
    return Weighted(peak, c, root, k, r, tied, exponent, answer, up, down, undefined | (up & down))


def _weighted(
    backend: Backend, x: Array, b: Array, axes: tuple[int, ...], n: Array | None = None
) -> tuple[Array, Array]:
    """log|Σ b·exp(x)|, or log|(1/n) Σ b·exp(x)|, and the sum's sign."""
    xp = backend.namespace(x)
    rows = weighted(backend, x, b, axes)
    value = rows.c + 2.0 * xp.log(rows.root) + _logarithm(backend, rows, b, axes, n)
    sign = _sign(xp, backend.stop_gradient(rows.k + rows.r))
    infinite = rows.peak == xp.inf
    value = xp.where(infinite, rows.infinite, value)
    sign = xp.where(infinite, xp.astype(rows.up, x.dtype) - xp.astype(rows.down, x.dtype), sign)
    nan = xp.full_like(value, xp.nan)
    return xp.where(rows.undefined, nan, value), xp.where(rows.undefined, nan, sign)


def _logarithm(backend: Backend, rows: Weighted, b: Array, axes: tuple[int, ...], n: Array | None) -> Array:
    """log|k + r|, or of the mean; a term that holds more than half enters by itself, as `carrier_of` says."""
    xp, stop = backend.namespace(b), backend.stop_gradient
    zero, one = xp.zeros_like(b), xp.ones_like(b)
    k, r, tied, z = rows.k, rows.r, rows.tied, None
    if stop(rows.exponent) is not rows.exponent or stop(b) is not b:  # or there is nothing that differentiates
        count = xp.sum(xp.where(tied, one, zero), axis=axes, keepdims=True)
        dominated = (xp.abs(stop(r)) < xp.abs(stop(k))) & (count == 1.0)
        weight = xp.sum(xp.where(tied, b, zero), axis=axes, keepdims=True)
        weight = xp.where(dominated, weight, xp.ones_like(weight))
        k = xp.where(dominated, stop(k) * (weight / stop(weight)), k)
        z = carrier_of(backend, rows.exponent, tied, dominated, axes)
        r = r if z is None else r * xp.exp(-z)
    value = _log_abs(xp, k, r) if n is None else _log_abs(xp, k / n, r / n)
    return value if z is None else z + value


def _log_abs(xp: Any, k: Array, r: Array) -> Array:
    """log|k + r|, exact near zero; −inf with derivative 0 where the sum is 0."""
    one, zero = xp.ones_like(k), xp.zeros_like(k)
    rest = r + (k - 1.0)
    sum_ = k + r
    gone = sum_ == 0
    near = xp.abs(rest) < 0.25  # XLA's log1p loses 7 bits near −0.41 (jax#39707)
    logarithm = xp.log(xp.where(near | gone, one, xp.abs(sum_)))
    logarithm = xp.where(near, xp.log1p(xp.where(near, rest, zero)), logarithm)
    return xp.where(gone, xp.full_like(k, -xp.inf), logarithm)


def _sign(xp: Any, x: Array) -> Array:
    return xp.astype(x > 0, x.dtype) - xp.astype(x < 0, x.dtype)


def _complex(
    backend: Backend, x: Array, b: Array | None, axes: tuple[int, ...], return_sign: bool
) -> tuple[Array, Array | None]:
    """The terms as modulus and angle, each a real array: exp of a complex infinity would be NaN."""
    xp = backend.namespace(x)
    key, angle = xp.real(x), xp.imag(x)
    zero, low = xp.zeros_like(key), xp.full_like(key, -xp.inf)
    if b is not None:
        modulus = xp.abs(b)
        removed = modulus == 0
        key = xp.where(removed, low, key + xp.log(xp.where(removed, xp.ones_like(modulus), modulus)))
        angle = xp.where(removed, zero, angle + xp.atan2(xp.imag(b), xp.real(b)))
    peak = backend.stop_gradient(xp.max(key, axis=axes, keepdims=True))
    infinite = peak == xp.inf
    c = xp.where(xp.abs(peak) == xp.inf, xp.zeros_like(peak), peak)
    # beside infinite terms nothing finite counts: there the sum is of their phases
    length = xp.where(infinite, xp.where(key == xp.inf, zero, low), key - c)
    absent = length == -xp.inf
    size = xp.exp(length)
    angle = xp.where(absent, zero, angle)
    re, im = size * xp.cos(angle), size * xp.sin(angle)
    tied = key == peak
    k = total(backend, xp.where(tied, re, zero), axes)
    r = total(backend, xp.where(tied, zero, re), axes)
    re, im = k + r, total(backend, im, axes)

    # log|S| = ½ log1p(|S|² − 1), with |S|² − 1 = (Re S − 1)(Re S + 1) + (Im S)²
    excess = (r + (k - 1.0)) * (re + 1.0) + im * im
    near = xp.abs(excess) < 0.25
    nothing = (re == 0) & (im == 0)
    square = xp.where(near | nothing, xp.ones_like(re), re * re + im * im)
    value = c + 0.5 * xp.where(near, xp.log1p(xp.where(near, excess, xp.zeros_like(excess))), xp.log(square))
    value = xp.where(nothing, xp.full_like(value, -xp.inf), xp.where(infinite, peak, value))
    # infinite terms that cancel leave no direction
    value = xp.where(nothing & infinite, xp.full_like(value, xp.nan), value)
    i = xp.full((), 1j, dtype=x.dtype, device=backend.device_of(x))
    if return_sign:
        length = xp.where(nothing, xp.ones_like(re), xp.sqrt(re * re + im * im))
        return value, xp.astype(re / length, x.dtype) + i * xp.astype(im / length, x.dtype)
    phase = xp.atan2(im, re)
    phase = xp.where(phase == -math.pi, -phase, phase)  # a sum −1 − 0i: the branch is (−π, π]
    return xp.astype(value, x.dtype) + i * xp.astype(phase, x.dtype), None


LOGSUMEXP = Operation(
    "logsumexp",
    _logsumexp,
    {"axis": None, "where": None, "b": None, "dtype": None, "keepdims": False, "return_sign": False},
    operands=("where", "b"),
)
_call, _first = LOGSUMEXP.call, LOGSUMEXP.first
_call_logmeanexp = Operation(
    "logmeanexp",
    _logmeanexp,
    {"axis": None, "where": None, "b": None, "dtype": None, "keepdims": False},
    operands=("where", "b"),
).call
