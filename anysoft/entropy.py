"""Entropy, Kullback-Leibler and Jensen-Shannon divergence straight from logits, in nats.

Everything is a sum of terms of one sign, so that nothing cancels:

    H(p)     = log1p(rest) + Σ p (max − x),   rest = Σ exp(x − max) − 1
    KL(p‖q)  = Σ p φ(−δ),                     φ(z) = exp(z) − 1 − z,  δ = log p − log q
    JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m),         m = ½ (p + q)

A wrong δ of which every entry is off by the same ε costs ½ε² only, because Σ (q − p) = 0.

Values are computed of constants. What carries the derivatives is the same function written about this point: x + z with
z = 0, of which only p, δ and the gradient enter, as constants. Whatever cancels there cancels exactly, being 1 − 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature, log_max
from anysoft._shift import least_exponent, quotient, total
from anysoft.registry import Backend, Operation

Array = Any


def entropy(
    x: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The Shannon entropy of softmax(x/T), −Σ p log p, in nats.

    Parameters
    ----------
    x : array
        Logits, of any shape, normalised or not; booleans and integers become the default float.
    axis : int, tuple of int or None
        The axes of a distribution; None is all of them, with ``()`` each entry is one.
    where : boolean array, optional
        Which entries count. What it excludes is never looked at, NaN included.
    temperature : float or array
        T ≥ 0. An array has length one along `axis`, and does not change the result's dtype.
    dtype : dtype, optional
        The result's dtype; the computation is in the wider of this and the natural one, and in float32 at least.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together, less the reduced axes; between 0 and the logarithm of the
        number of entries.

    Notes
    -----
    Special values: 0 log 0 is 0, so that logits of −inf contribute nothing, and have derivative 0. A row of nothing but
    −inf, or with +inf or NaN in it, is NaN, as its softmax is; a row of which `where` leaves nothing, and an empty one,
    have entropy 0. At T = 0 it is the logarithm of the number of ties, at T = ∞ of the number of finite entries.

    The derivative is ∂H/∂x_i = −p_i (log p_i + H) at T = 1, and defined wherever the entropy is no NaN.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too; also
    where one entry holds almost all, and H is tiny.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex input, a mask that is not boolean.
    ValueError
        For a temperature that is negative or NaN (in an array: NaN), or varies along `axis`; for a repeated axis and
        for shapes that do not broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Shannon, "A mathematical theory of communication", 1948. That entropies from log_softmax are NaN, or their
    derivatives, beside −inf: huggingface/trl#7221.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.entropy([1.0, 1.0, -float("inf")]))
    0.6931471805599453
    >>> print(anysoft.entropy([0.0, -40.0]))
    1.7418252446695514e-16
    """
    temperature = checked_temperature(temperature)
    return _call_entropy(where is None and temperature is None, x, axis, where, temperature, dtype, keepdims)


def kl_divergence(
    x: Array,
    y: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The Kullback-Leibler divergence Σ p (log p − log q) of p = softmax(x) from q = softmax(y), in nats.

    Parameters
    ----------
    x, y : array
        Logits of p and of q, normalised or not. They broadcast together; booleans and integers become the default
        float.
    axis, where, dtype, keepdims
        As for `entropy`.

    Returns
    -------
    array
        The shape of `x`, `y` and `where` broadcast together, less the reduced axes; not below 0.

    Notes
    -----
    Special values: 0 log 0 is 0, so that where x is −inf, whatever y is, there is nothing to add. Where y alone is −inf
    the divergence is +inf, with derivatives 0, since nothing finite changes it. A row of nothing but −inf, or with +inf
    or NaN in it, in either array, is NaN; a row of which `where` leaves nothing, and an empty one, is 0.

    The derivatives are p_i (log p_i − log q_i − KL) for x_i, and q_i − p_i for y_i; 0 at −inf.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too. Where
    p and q are close, the digits of their difference are those of x − y.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `entropy`.

    References
    ----------
    Kullback, Leibler, "On information and sufficiency", 1951. That the derivative elsewhere is NaN or infinite at
    probabilities of 0: pytorch#89558.

    Examples
    --------
    >>> import anysoft
    >>> print(f"{anysoft.kl_divergence([0.0, 1e-9], [0.0, 0.0]):.4}")
    1.25e-19
    >>> print(anysoft.kl_divergence([0.0, 0.0], [0.0, -float("inf")]))
    inf
    """
    return _call_kl_divergence(False, x, y, axis, where, dtype, keepdims)


def js_divergence(
    x: Array,
    y: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = ½ (p + q), of softmax(x) and softmax(y), in nats.

    Parameters
    ----------
    x, y : array
        As for `kl_divergence`; neither is first.
    axis, where, dtype, keepdims
        As for `entropy`.

    Returns
    -------
    array
        The shape of `x`, `y` and `where` broadcast together, less the reduced axes; between 0 and log 2. Its square
        root is a metric.

    Notes
    -----
    Special values: 0 log 0 is 0, and distributions that have no entry in common are log 2 apart. A row of nothing but
    −inf, or with +inf or NaN in it, in either array, is NaN; a row of which `where` leaves nothing, and an empty one,
    is 0.

    The derivative is ½ p_i (log(p_i/m_i) − KL(p‖m)) for x_i, and likewise for y_i; 0 at −inf.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivative too. The
    second derivative has terms of both signs, and may lose twice as much.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `entropy`.

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", 1991. ``scipy.spatial.distance.jensenshannon`` is the
    square root, of probabilities.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.js_divergence([0.0, -float("inf")], [-float("inf"), 0.0]))
    0.6931471805599453
    """
    return _call_js_divergence(False, x, y, axis, where, dtype, keepdims)


# ---------------------------------------------------------------------------------------------------------------------
# A row as a distribution


class _Distribution(NamedTuple):
    """p = w·f / s, of constants. Where exp would underflow it is in w and f, so that p·t is right for a large t."""

    d: Array  # (x − max)/T; 0 where p is 0
    w: Array
    f: Array
    s: Array  # Σ exp(d), never 0
    log_s: Array
    tied: Array  # for the maximum
    dominated: Array  # rows of which one entry holds more than half
    axes: tuple[int, ...]

    @property
    def p(self) -> Array:
        return self.w * self.f / self.s

    def times(self, t: Array) -> Array:
        """p·t"""
        return self.w * t * self.f / self.s

    def mean(self, backend: Backend, t: Array) -> Array:
        """Σ p·t"""
        return total(backend, self.w * t * self.f, self.axes) / self.s


def _distribution(backend: Backend, d: Array, axes: tuple[int, ...]) -> _Distribution:
    xp = backend.namespace(d)
    zero, one = xp.zeros_like(d), xp.ones_like(d)
    far = d < -0.9 * log_max(xp, d.dtype)
    w = xp.exp(xp.where(far, 0.5 * d, d))
    f = xp.where(far, w, one)
    tied = d == 0
    count = total(backend, xp.where(tied, one, zero), axes)
    count = xp.where(count == 0, xp.ones_like(count), count)  # of a dead row
    r = total(backend, xp.where(tied, zero, w * f), axes)
    log_s = xp.log1p(r + (count - 1.0))
    return _Distribution(
        xp.where(d == -xp.inf, zero, d), w, f, count + r, log_s, tied, (count == 1.0) & (r < 1.0), axes
    )


def _maximum(backend: Backend, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The maximum of each row as a constant, 0 for a row of −inf; and which rows are no distribution."""
    xp = backend.namespace(x)
    maximum = backend.stop_gradient(xp.max(x, axis=axes, keepdims=True))
    return xp.where(maximum == -xp.inf, xp.zeros_like(maximum), maximum), ~(xp.abs(maximum) < xp.inf)


def _result(backend: Backend, rows: arguments.Prepared, value: Array, undefined: Array, keepdims: bool) -> Array:
    """NaN where there is no distribution, 0 where the mask leaves nothing."""
    xp = backend.namespace(value)
    value = xp.where(undefined, xp.full_like(value, xp.nan), value)
    if rows.where is not None:
        mask = arguments.broadcast_to(xp, rows.where, rows.arrays[0].shape)
        value = xp.where(xp.any(mask, axis=rows.axes, keepdims=True), value, xp.zeros_like(value))
    return arguments.reduced(xp, value, rows, keepdims)


def _nothing(backend: Backend, rows: arguments.Prepared, keepdims: bool) -> Array | None:
    """0 for rows that are empty, or None."""
    xp, x = backend.namespace(rows.arrays[0]), rows.arrays[0]
    if all(n != 0 for n in x.shape):
        return None
    return arguments.reduced(xp, xp.sum(x, axis=rows.axes, keepdims=True), rows, keepdims)


# ---------------------------------------------------------------------------------------------------------------------
# A row that moves


class _Moved(NamedTuple):
    """p' = p·e / n at logits moved by z, which is 0 and carries the derivatives."""

    z: Array
    ahead: Array  # z without that of the entry that holds most: a distribution is one of differences
    again: Array  # the same, with derivatives of its own: those that cancel must do so before others are added
    e: Array  # exp(ahead)
    nu: Array  # n − 1 = Σ p (e − 1)


def _moved(backend: Backend, p: _Distribution, d: Array) -> _Moved:
    # 1 − p never enters, since the entry that holds most does not move
    xp = backend.namespace(d)
    fixed = backend.stop_gradient(d)
    zero = xp.zeros_like(fixed)
    here = fixed > -xp.inf
    z = xp.where(here, d, zero) - xp.where(here, fixed, zero)
    most = xp.sum(xp.where(p.tied & p.dominated, z, zero), axis=p.axes, keepdims=True)
    ahead, again = z - most, z - most
    e = xp.exp(ahead)
    return _Moved(z, ahead, again, e, xp.sum(p.p * (e - 1.0), axis=p.axes, keepdims=True))


def _mean_moved(xp: Any, g: Array, moved: _Moved, axes: tuple[int, ...]) -> Array:
    """n Σ p'·t, for g = p·t with a sum of 0."""
    return xp.sum(g * moved.z + g * (moved.e - 1.0 - moved.ahead), axis=axes, keepdims=True)


def _self_moved(xp: Any, p: _Distribution, g: Array, moved: _Moved) -> Array:
    """Σ p' log p' about −H, of which g is the gradient."""
    n = 1.0 + moved.nu
    curved = xp.sum(p.p * ((moved.again - 1.0) * xp.exp(moved.again) + 1.0), axis=p.axes, keepdims=True)
    return moved.nu / n - xp.log1p(moved.nu) + (_mean_moved(xp, g, moved, p.axes) + curved) / n


# ---------------------------------------------------------------------------------------------------------------------
# Entropy


def _entropy(
    backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any, keepdims: bool
) -> Array:
    xp = backend.namespace(x)
    rows = arguments.prepared(xp, "entropy", {"x": x}, axis, where=where, temperature=temperature, dtype=dtype)
    if (nothing := _nothing(backend, rows, keepdims)) is not None:
        return nothing
    (x,), axes = rows.arrays, rows.axes
    maximum, undefined = _maximum(backend, x, axes)
    d = x - maximum if temperature is None else quotient(backend, x, maximum, maximum, x == maximum, rows.temperature)
    fixed = backend.stop_gradient(d)
    p = _distribution(backend, fixed, axes)
    mean = p.mean(backend, 0.0 - p.d)
    value = p.log_s + mean
    if fixed is not d:  # or there is nothing that differentiates
        # what is far below all numbers stays 0, however fast its logarithm moves
        d = xp.where(fixed > 2.0 * least_exponent(xp, x.dtype), d, fixed)
        value = value - _self_moved(xp, p, p.times(p.d + mean), _moved(backend, p, d))
    return _result(backend, rows, value, undefined, keepdims)


# ---------------------------------------------------------------------------------------------------------------------
# Divergences

_NEAR = 2.0  # the largest |log p − log q| at which p log p/q − p + q cancels so far that a series is better


def _exp_excess(xp: Any, z: Array) -> Array:
    """φ(z) = exp(z) − 1 − z for |z| ≤ 2, by φ(2z) = (exp(z) − 1)² + 2 φ(z): no subtraction, and no expm1 of XLA."""
    h = 0.125 * z
    smallest, terms = float(xp.finfo(z.dtype).eps) / 8.0, 2
    while 2.0 * 0.25**terms / math.factorial(terms + 2) > smallest:
        terms += 1
    series = xp.full_like(z, 2.0 / math.factorial(terms + 1))
    for k in range(terms, 1, -1):
        series = series * h + 2.0 / math.factorial(k)
    excess = 0.5 * h * h * series
    for _ in range(3):
        change = h + excess
        h = 2.0 * h
        excess = change * change + 2.0 * excess
    return excess


class _Ratio(NamedTuple):
    """Two distributions beside each other, as constants; logarithms are in quarters, because 4 of them may overflow."""

    p: _Distribution
    q: _Distribution
    log_ratio: Array  # ¼ (log p − log q)
    beside: Array  # the same less a constant of the row, rounded once
    excess: Array  # φ(log q − log p) where that is near 0
    near: Array
    mismatch: Array  # rows in which q is 0 and p is not

    def difference(self, xp: Any) -> Array:
        """q − p"""
        return xp.where(self.near, self.p.times(self.excess - 4.0 * self.log_ratio), self.q.p - self.p.p)


def _two_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """a − b, and its rounding error (Knuth)."""
    difference = a - b
    of_b = difference - a
    return difference, (a - (difference - of_b)) - (b + of_b)


def _ratio(backend: Backend, x: Array, y: Array, axes: tuple[int, ...], top_x: Array, top_y: Array) -> _Ratio:
    xp = backend.namespace(x)
    p, q = _distribution(backend, x - top_x, axes), _distribution(backend, y - top_y, axes)
    zero = xp.zeros_like(x)
    no_p, no_q = x == -xp.inf, y == -xp.inf
    either = no_p | no_q
    # Neither (x − y) − (max x − max y) nor (x − max x) − (y − max y) will do alone: the first loses where one
    # logit stands far above the others, the second where x and y are close.
    here, its_error = _two_difference(0.25 * xp.where(either, zero, x), 0.25 * xp.where(either, zero, y))
    top, top_error = _two_difference(0.25 * top_x, 0.25 * top_y)
    beside = (here - top) + (its_error - top_error)
    distant = 4.0 * log_max(xp, x.dtype)
    beside = xp.where(either, xp.where(no_p, zero - distant, zero) + xp.where(no_q, zero + distant, zero), beside)

    a, b = p.w * p.f, q.w * q.f
    ahead = 4.0 * beside
    near = xp.abs(ahead) <= 1.0
    ahead = xp.where(near, ahead, zero)
    change = total(backend, xp.where(near, b * (ahead + _exp_excess(xp, ahead)), a - b), axes) / q.s
    log_change = xp.where(xp.abs(change) < 0.25, xp.log1p(change), xp.log(p.s / q.s))
    log_ratio = beside - 0.25 * log_change
    return _Ratio(p, q, log_ratio, beside, *_near(xp, log_ratio), xp.any(no_q & ~no_p, axis=axes, keepdims=True))


def _near(xp: Any, log_ratio: Array) -> tuple[Array, Array]:
    near = xp.abs(log_ratio) <= 0.25 * _NEAR
    return _exp_excess(xp, xp.where(near, -4.0 * log_ratio, xp.zeros_like(log_ratio))), near


def _quarter(backend: Backend, p: _Distribution, q: Array, log_ratio: Array, excess: Array, near: Array) -> Array:
    """¼ Σ (p log p/q − p + q), each term of which is p φ(−log p/q) and not below 0."""
    xp = backend.namespace(q)
    own = p.mean(backend, xp.where(near, 0.25 * excess, log_ratio - 0.25))
    return own + total(backend, xp.where(near, xp.zeros_like(q), 0.25 * q), p.axes)


def _about_mean(backend: Backend, p: _Distribution, t: Array) -> Array:
    """p (t − Σ p t), of t less that of the largest entry: so a constant in t never enters, and neither does 1 − p."""
    xp = backend.namespace(t)
    of_largest = xp.max(xp.where(p.tied, t, xp.full_like(t, -xp.inf)), axis=p.axes, keepdims=True)
    t = t - xp.where(of_largest == -xp.inf, xp.zeros_like(of_largest), of_largest)  # a dead row has none
    return p.times(t - p.mean(backend, t))


def _of_two(
    name: str,
    backend: Backend,
    x: Array,
    y: Array | None,
    axis: Any,
    where: Any,
    dtype: Any,
    keepdims: bool,
    formula: Any,
) -> Array:
    xp = backend.namespace(x)
    if y is None:
        raise TypeError(f"{name} is of two arrays")
    rows = arguments.prepared(xp, name, {"x": x, "y": y}, axis, where=where, dtype=dtype)
    if (nothing := _nothing(backend, rows, keepdims)) is not None:
        return nothing
    (x, y), axes = rows.arrays, rows.axes
    (top_x, no_x), (top_y, no_y) = _maximum(backend, x, axes), _maximum(backend, y, axes)
    fixed_x, fixed_y = backend.stop_gradient(x), backend.stop_gradient(y)
    ratio = _ratio(backend, fixed_x, fixed_y, axes, top_x, top_y)
    moved = None
    if fixed_x is not x or fixed_y is not y:  # or there is nothing that differentiates
        moved = _moved(backend, ratio.p, x - top_x), _moved(backend, ratio.q, y - top_y)
    return _result(backend, rows, formula(backend, ratio, moved), no_x | no_y, keepdims)


def _kl_divergence(backend: Backend, x: Array, y: Array, axis: Any, where: Any, dtype: Any, keepdims: bool) -> Array:
    return _of_two("kl_divergence", backend, x, y, axis, where, dtype, keepdims, _kl)


def _js_divergence(backend: Backend, x: Array, y: Array, axis: Any, where: Any, dtype: Any, keepdims: bool) -> Array:
    return _of_two("js_divergence", backend, x, y, axis, where, dtype, keepdims, _js)


def _kl(backend: Backend, ratio: _Ratio, moved: tuple[_Moved, _Moved] | None) -> Array:
    p, q = ratio.p, ratio.q
    xp = backend.namespace(p.w)
    value = 4.0 * _quarter(backend, p, q.p, ratio.log_ratio, ratio.excess, ratio.near)
    if moved is not None:
        by_x, by_y = moved
        largest = float(xp.finfo(p.w.dtype).max)
        g = xp.clip(4.0 * _about_mean(backend, p, ratio.beside), -largest, largest)
        value = value + _self_moved(xp, p, g, by_x) + _cross_moved(xp, ratio, by_x, by_y)
    return xp.where(ratio.mismatch, xp.full_like(value, xp.inf), value)


def _cross_moved(xp: Any, ratio: _Ratio, by_x: _Moved, by_y: _Moved) -> Array:
    """−Σ p' log q' about that of p and q."""
    p, q = ratio.p.p, ratio.q.p
    change = p * by_x.e / (1.0 + by_x.nu) - p
    terms = ratio.difference(xp) * by_y.z + q * (by_y.e - 1.0 - by_y.ahead) - change * by_y.z
    return xp.log1p(by_y.nu) - by_y.nu + xp.sum(terms, axis=ratio.p.axes, keepdims=True)


def _js(backend: Backend, ratio: _Ratio, moved: tuple[_Moved, _Moved] | None) -> Array:
    p, q = ratio.p, ratio.q
    xp = backend.namespace(p.w)
    # ¼ log p/m and ¼ log q/m, of which the larger is log1p(tanh ½|log p/q|)
    first = ratio.log_ratio >= 0
    size = xp.abs(ratio.log_ratio)
    fall = xp.exp(-4.0 * size)
    change = ratio.excess - 4.0 * xp.where(ratio.near, ratio.log_ratio, xp.zeros_like(size))
    larger = 0.25 * xp.log1p(xp.where(ratio.near, xp.abs(change / (2.0 + change)), (1.0 - fall) / (1.0 + fall)))
    log_p = xp.where(first, larger, larger - size)
    log_q = xp.where(first, larger - size, larger)
    middle = 0.5 * (p.p + q.p)
    value = 2.0 * (
        _quarter(backend, p, middle, log_p, *_near(xp, log_p)) + _quarter(backend, q, middle, log_q, *_near(xp, log_q))
    )
    value = xp.where(value > math.log(2), xp.full_like(value, math.log(2)), value)
    if moved is None:
        return value
    by_x, by_y = moved
    n, m = 1.0 + by_x.nu, 1.0 + by_y.nu
    share_q = xp.where(first, fall, xp.ones_like(fall)) / (1.0 + fall)  # q/(p + q)
    share_p = xp.where(first, xp.ones_like(fall), fall) / (1.0 + fall)
    apart = by_x.ahead - by_y.ahead - xp.log1p(by_x.nu) + xp.log1p(by_y.nu)
    # log p'/m' and log q'/m', less their first order, which cancels between them
    bend_p, bend_q = share_q * (xp.exp(-apart) - 1.0), share_p * (xp.exp(apart) - 1.0)
    bend = p.p * by_x.e / n * (xp.log1p(bend_p) - bend_p) + q.p * by_y.e / m * (xp.log1p(bend_q) - bend_q)
    return (
        value
        + _mean_moved(xp, 2.0 * _about_mean(backend, p, log_p), by_x, p.axes) / n
        + _mean_moved(xp, 2.0 * _about_mean(backend, q, log_q), by_y, p.axes) / m
        - 0.5 * xp.sum(bend, axis=p.axes, keepdims=True)
    )


_OPTIONS = {"axis": -1, "where": None, "dtype": None, "keepdims": False}


def _check(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


_call_entropy = Operation(
    "entropy",
    _entropy,
    {"axis": -1, "where": None, "temperature": 1.0, "dtype": None, "keepdims": False},
    ("where", "temperature"),
    _check,
).call
_call_kl_divergence = Operation("kl_divergence", _kl_divergence, {"y": None, **_OPTIONS}, ("y", "where")).call
_call_js_divergence = Operation("js_divergence", _js_divergence, {"y": None, **_OPTIONS}, ("y", "where")).call
