"""sparsemax and entmax: probabilities with exact zeros.

With s = α − 1 and β = 1/s, both are p = [s·(x − max x) + Λ]₊^β, where Λ ≤ 1 is such that Σ p = 1. Λ is found as a
constant of differentiation: by sorting for α = 2 and α = 1.5, by Newton's method below 2, by bisection above. Two more
Newton steps are part of the formula: they change nothing of the value, and give it its first and second derivatives,
because the error of two steps is of fourth order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anysoft import _arguments as arguments
from anysoft._shift import total
from anysoft.registry import Backend, Operation
from anysoft.softmax import softmax

Array = Any

_STEPS = 12  # of Newton's method: tests/test_sparse.py has rows that take many


def sparsemax(x: Array, /, axis: int = -1, *, where: Array | None = None, dtype: Any = None) -> Any:
    r"""The nearest probabilities to x in the Euclidean sense, [x − τ]₊ with τ such that they sum to 1.

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float.
    axis : int
        The axis that sums to 1.
    where : boolean array, optional
        Which entries count. What it excludes is never looked at, NaN included, and gets probability 0.
    dtype : dtype, optional
        The result's dtype; the computation is in the wider of this and the natural one, and in float32 at least.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together. Zeros are exact.

    Notes
    -----
    Special values: as for `softmax`: −inf gets 0; a row of nothing else, or with +inf or NaN in it, is NaN; a row of
    which `where` leaves nothing is 0.

    The derivative is δ_ij − 1/k on the support of k entries and 0 elsewhere. An entry at the threshold itself, where
    there is no derivative, is not in the support.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex input, a mask that is not boolean, an axis that is not one
        integer.
    ValueError
        For shapes that do not broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Martins, Astudillo, "From softmax to sparsemax: a sparse model of attention and multi-label classification", ICML
    2016. That −inf makes NaN elsewhere: deep-spin/entmax#9.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.sparsemax([1.0, 0.5, -1.0]))
    [0.75 0.25 0.  ]
    """
    return _call_sparsemax(where is None, x, axis, where, dtype)


def entmax(x: Array, /, alpha: float = 1.5, axis: int = -1, *, where: Array | None = None, dtype: Any = None) -> Any:
    r"""α-entmax, [(α − 1)(x − τ)]₊^(1/(α − 1)) with τ such that it sums to 1: from softmax to sparsemax and beyond.

    Parameters
    ----------
    x, axis, where, dtype
        As for `sparsemax`.
    alpha : float
        At least 1. 1 is softmax, 2 is sparsemax; the larger, the sparser.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together. Zeros are exact for alpha > 1.

    Notes
    -----
    It is the p with the largest Σ p·x + H_α(p), where H_α = Σ (p − p^α)/(α(α − 1)) is Tsallis's entropy.

    Special values: as for `sparsemax`.

    The derivative is w_i (δ_ij − w_j / Σ w) with w = p^(2 − α) on the support, and 0 elsewhere. For alpha > 2 it has no
    bound where an entry joins the support.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, `alpha` included. At
    an alpha other than 1.5 and 2 the power is the framework's: XLA's makes it up to twice as much (measured at 1.2).

    Raises
    ------
    TypeError, numpy.exceptions.AxisError
        As for `sparsemax`; `TypeError` for an `alpha` that is no real number too.
    ValueError
        For an `alpha` below 1, infinite or NaN, or so large that n^(1 − alpha), with n the length of a row, is below
        the smallest number of the dtype; for shapes that do not broadcast.

    References
    ----------
    Peters, Niculae, Martins, "Sparse sequence-to-sequence models", ACL 2019.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.entmax([1.0, 0.0, -2.0]))
    [0.83071891 0.16928109 0.        ]
    >>> print(anysoft.entmax([1.0, 0.0, -2.0], alpha=1))
    [0.70538451 0.25949646 0.03511903]
    """
    return _call_entmax(where is None, x, _checked_alpha(alpha), axis, where, dtype)


def _checked_alpha(alpha: Any) -> float:
    if isinstance(alpha, np.generic):
        alpha = alpha.item()
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise TypeError(f"alpha must be a real number, not {alpha!r}")
    if not 1 <= alpha < math.inf:
        raise ValueError(f"alpha must be at least 1 and finite, not {alpha!r}")
    return float(alpha)


def _sparsemax(backend: Backend, x: Array, axis: Any, where: Array | None, dtype: Any) -> Array:
    return _entmax(backend, x, 2.0, axis, where, dtype)


def _entmax(backend: Backend, x: Array, alpha: float, axis: Any, where: Array | None, dtype: Any) -> Array:
    xp = backend.namespace(x)
    natural = arguments.float_dtype(xp, {"x": x})
    if not xp.isdtype(natural, "real floating"):
        raise TypeError(f"sparsemax and entmax are of real numbers, not {natural}")
    if axis is None or isinstance(axis, tuple | list):
        raise TypeError(f"axis must be an int, not {axis!r}")
    if alpha == 1:
        return softmax(x, axis, where=where, dtype=dtype)
    dtype = arguments.result_dtype(xp, natural, dtype)
    x = xp.astype(x, arguments.carrier(xp, xp.result_type(natural, dtype)), copy=False)
    if where is not None:
        where = arguments.as_mask(xp, where, x)
        x = arguments.broadcast_to(xp, x, arguments.broadcast_shape(x=x.shape, where=where.shape))
        where = arguments.with_rank(xp, where, x.ndim)
    (along,) = arguments.canonical_axes(axis, x.ndim)
    scalar = x.ndim == 0
    if scalar:
        x, where = (None if a is None else xp.expand_dims(a, axis=0) for a in (x, where))
    if not any(n == 0 for n in x.shape):
        if where is not None:
            x = xp.where(where, x, xp.full_like(x, -xp.inf))
        result = _rows(backend, x, alpha, along)
        x = result if where is None else xp.where(where, result, xp.zeros_like(result))
    x = xp.astype(x, dtype, copy=False)
    return x[0] if scalar else x


def _rows(backend: Backend, x: Array, alpha: float, axis: int) -> Array:
    xp, axes, s = backend.namespace(x), (axis,), alpha - 1.0
    fixed = backend.stop_gradient(x)
    top = xp.max(fixed, axis=axis, keepdims=True)
    undefined = ~(xp.abs(top) < xp.inf)
    top = xp.where(undefined, xp.zeros_like(top), top)
    d = s * (top - xp.where(xp.abs(fixed) < xp.inf, fixed, xp.full_like(fixed, -xp.inf)))
    near = d < 1  # the others are 0 whatever Λ is

    # x is measured from where its entry becomes 0, where a rounding error of the difference is one of p's own size.
    # With a large power a small difference is nothing, and there log1p keeps the digits of those near the top.
    far = s < 0.125
    shift = _shift(backend, xp.where(near, d, xp.ones_like(d)), alpha, axis, far=far)
    origin = top if far else top - shift / s
    offset = -shift if far else s * (top - origin) - shift
    powers = _powers(xp, 1.0 / s, near, of_log1p=far)

    difference, lost = _difference(xp.where(near, fixed, top), origin)
    base = s * difference
    for _ in range(2):
        shifted, rest = _difference(base, offset)
        p, w = powers(shifted)
        excess = _excess(backend, p, axis) + total(backend, w * (rest + s * lost), axes) / s
        offset = offset + excess * s / total(backend, w, axes)
    shifted, rest = _difference(base, offset)
    _, w = powers(shifted)
    correction = w * (rest + s * lost) / s  # of p, for what rounding the two differences has lost
    lead = 2.0 * w > total(backend, w, axes)
    # the entry that holds most enters by itself, as z = 0, so that derivatives never see 1 − p
    moved = xp.where(near, x - fixed, xp.zeros_like(x))
    z = xp.sum(xp.where(lead, moved, xp.zeros_like(x)), axis=axis, keepdims=True)
    base = base + xp.where(lead, xp.zeros_like(x), s * (moved - z))
    for _ in range(2):
        p, w = powers(base - offset)
        sum_ = total(backend, p, axes)
        offset = offset + (sum_ - backend.stop_gradient(sum_)) * s / total(backend, w, axes)
    p = powers(base - offset)[0] + correction
    return xp.where(undefined, xp.full_like(p, xp.nan), p)


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """a − b, and what rounding it loses (Knuth's two-sum)."""
    difference = a - b
    back = difference - a
    return difference, (a - (difference - back)) - (b + back)


def _excess(backend: Backend, p: Array, axis: int) -> Array:
    """Σ p − 1 without the rounding errors of the sum."""
    xp = backend.namespace(p)
    if not (backend.sums_in_halves() and isinstance(p.shape[axis], int)):  # or the length is not known
        return xp.sum(p, axis=axis, keepdims=True) - 1.0
    before = (slice(None),) * axis
    rest = xp.zeros_like(p[_first(axis)])
    while (n := p.shape[axis]) > 1:
        half, odd = divmod(n, 2)
        a, b = p[(*before, slice(0, half), ...)], p[(*before, slice(half, 2 * half), ...)]
        sums, lost = _difference(a, -b)
        rest = rest + xp.sum(lost, axis=axis, keepdims=True)
        p = xp.concat([sums, p[(*before, slice(n - 1, n), ...)]], axis=axis) if odd else sums
    return (p - 1.0) + rest


def _powers(xp: Any, beta: float, near: Array, *, of_log1p: bool) -> Callable[[Array], tuple[Array, Array]]:
    """p = v^β and w = v^(β − 1) of v, or of v − 1, which keeps the digits of a v near 1; both 0 where v ≤ 0."""

    def powers(base: Array) -> tuple[Array, Array]:
        one, zero = xp.ones_like(base), xp.zeros_like(base)
        live = near & (base > (-1.0 if of_log1p else 0.0))
        if of_log1p:
            # XLA's log1p loses 7 bits near −0.41 (jax#39707)
            small = live & (base > -0.25)
            logarithm = xp.log1p(xp.where(small, base, zero)) + xp.log(xp.where(small | ~live, one, 1.0 + base))
            p, w = xp.exp(beta * logarithm), xp.exp((beta - 1.0) * logarithm)
        else:
            v = xp.where(live, base, one)
            p, w = {1.0: lambda: (v, one), 2.0: lambda: (v * v, v)}.get(beta, lambda: (v**beta, v ** (beta - 1.0)))()
        return xp.where(live, p, zero), xp.where(live, w, zero)

    return powers


def _shift(backend: Backend, d: Array, alpha: float, axis: int, *, far: bool) -> Array:
    """Λ, or Λ − 1 if `far`, to half of the digits or more; 0 ≤ d ≤ 1 are the distances from the largest."""
    xp = backend.namespace(d)
    if alpha == 2 or alpha == 1.5:
        return _by_sorting(backend, d, alpha, axis)
    s = alpha - 1.0
    least = -s * math.log(d.shape[axis])  # log Λ of as many equal entries
    if least < math.log(float(xp.finfo(d.dtype).smallest_normal)):
        raise ValueError(f"alpha of {alpha} is too large for rows of {d.shape[axis]} in {d.dtype}")
    high = xp.full_like(d[_first(axis)], 0.0 if far else 1.0)
    low = xp.full_like(high, math.expm1(least) if far else math.exp(least))
    powers = _powers(xp, 1.0 / s, d < 1, of_log1p=far)
    convex = alpha < 2
    steps = _STEPS if convex else 12 - int(math.log2(float(xp.finfo(d.dtype).eps)))

    def closer(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, shift = state
        p, w = (xp.sum(each, axis=axis, keepdims=True) for each in powers(shift - d))
        over = p >= 1
        low, high = xp.where(over, low, shift), xp.where(over, shift, high)
        middle = 0.5 * (low + high) if far else xp.sqrt(low * high)
        step = shift - (p - p ** (2.0 - alpha)) / w  # of (Σ p)^s − 1, which is nearly a line
        return low, high, xp.where((step >= low) & (step <= high), step, middle) if convex else middle

    return backend.repeat(steps, closer, (low, high, high))[2]


def _first(axis: int) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, slice(0, 1), ...)


def _by_sorting(backend: Backend, d: Array, alpha: float, axis: int) -> Array:
    """Λ if the support were the k nearest, for each k; the right k is the largest whose last entry is in it."""
    xp = backend.namespace(d)
    add = backend.cumulative_sum or xp.cumulative_sum
    ordered = xp.sort(d, axis=axis)
    k = add(xp.ones_like(d), axis=axis)
    mean = add(ordered, axis=axis) / k
    spread = add(ordered * ordered, axis=axis) / k - mean * mean
    inside = ordered < _threshold(xp, k, mean, spread, alpha)
    zero = xp.zeros_like(d)

    def average(a: Array) -> Array:
        return xp.sum(xp.where(inside, a, zero), axis=axis, keepdims=True) / k

    k = xp.sum(xp.where(inside, xp.ones_like(d), zero), axis=axis, keepdims=True)
    mean = average(ordered)
    return _threshold(xp, k, mean, average((ordered - mean) * (ordered - mean)), alpha)


def _threshold(xp: Any, k: Array, mean: Array, spread: Array, alpha: float) -> Array:
    """Λ with Σ (Λ − d)^β = 1 over k entries of this mean and variance."""
    if alpha == 2:
        return mean + 1.0 / k
    room = 1.0 / k - spread
    return mean + xp.sqrt(xp.where(room > 0, room, xp.zeros_like(room)))


_call_sparsemax = Operation("sparsemax", _sparsemax, {"axis": -1, "where": None, "dtype": None}, ("where",)).call


def _check(given: dict[str, Any]) -> None:
    given["alpha"] = _checked_alpha(given["alpha"])


_call_entmax = Operation(
    "entmax", _entmax, {"alpha": 1.5, "axis": -1, "where": None, "dtype": None}, ("where",), _check
).call
