"""The shift that keeps exp in range, and sums that do not lose with their length: what the whole family stands on.

For any constant c, log Σ exp(x) = c + log Σ exp(x − c), and softmax does not see c at all. The textbook takes
c = max x. Here c is 0 wherever exp(x) is in range without help: the subtraction's rounding error, up to half an ulp of
x − c in the exponent, is then never made. On rows of 10⁶ normal logits that error alone is larger than the contract
allows, because a maximum of 10 can carry almost none of the mass; a maximum past the limit cannot.

A row is kept as two sums, k over the entries tied for the maximum and r over all others. Σ exp = k + r loses r when it
is small; log1p(r/k) and its derivatives do not, and both sums differentiate rightly with c a constant.

References
----------
Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41, 2021.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from anysoft._arguments import log_max, without_axes
from anysoft.registry import Backend

Array = Any

_FEW = 8  # terms that may be added one by one


def total(backend: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    """Sum with keepdims that loses no more than a few roundings, whatever the length, the axis and the order.

    Frameworks add one by one along some axes (NumPy along all but the contiguous one), or a few to each lane: 10⁶ equal
    terms along axis 0 lose 17 bits (measured, float32), and one large term loses a rounding to each small one that
    joins its lane. Adding halves rounds log n times. (A sum of sums would do, but XLA makes one sum of it again.)
    """
    xp = backend.namespace(x)
    if not backend.sums_in_halves():
        return xp.sum(x, axis=axes, keepdims=True)
    cut: tuple[int, ...] = ()
    for axis in axes:
        blocks = backend.blocks(x, axis)
        if blocks > 1:
            shape = (*x.shape[:axis], blocks, x.shape[axis] // blocks, *x.shape[axis + 1 :])
            x = without_axes(_total_along(xp, xp.reshape(x, shape), axis + 1), (axis + 1,))
            cut = (*cut, axis)
        else:
            x = _total_along(xp, x, axis)
    return xp.sum(x, axis=cut, keepdims=True) if cut else x


def _total_along(xp: Any, x: Array, axis: int) -> Array:
    before = (slice(None),) * axis
    # a length that is not known (Dask) cannot be halved
    while isinstance(n := x.shape[axis], int) and n > _FEW:
        half, odd = divmod(n, 2)
        folded = x[(*before, slice(0, half), ...)] + x[(*before, slice(half, 2 * half), ...)]
        x = xp.concat([folded, x[(*before, slice(n - 1, n), ...)]], axis=axis) if odd else folded
    return xp.sum(x, axis=axis, keepdims=True)


def in_range(xp: Any, dtype: Any) -> float:
    """How far an exponent may be from 0 so that exp, and any sum of such, needs no shift: half of the range."""
    return 0.45 * log_max(xp, dtype)


def least_exponent(xp: Any, dtype: Any) -> float:
    """Below it exp is exactly 0."""
    form = xp.finfo(dtype)
    return math.log(float(form.smallest_normal)) + math.log(0.5 * float(form.eps))


def shift_for(xp: Any, top: Array, temperature: Array | None = None) -> Array:
    """The shift of rows whose maximum is `top`: 0 where exp(x / T) is in range and 1 ≤ top / T, or else `top`.

    Below 1 the maximum itself is the better shift, because exp(0) = 1 exactly keeps log1p of the rest exact near 0.
    Rows of nothing but −inf are not shifted: −inf − (−inf) would be NaN.
    """
    unit = 1.0 if temperature is None else temperature
    bounded = (top >= unit) & (top <= in_range(xp, top.dtype) * unit)
    return xp.where(bounded | (top == -xp.inf), xp.zeros_like(top), top)


class Scaled(NamedTuple):
    """Rows as (x − shift)/T, exponentiated and summed; `k + r` is the sum of `e`, never 0, also for a dead row."""

    e: Array
    k: Array
    r: Array
    tied: Array  # which entries share the maximum
    dominated: Array  # rows of which one entry holds more than half
    dead: Array  # rows with nothing but −inf
    top: Array  # (max − shift)/T
    z: Array | None  # 0 with the derivatives of (x − shift)/T of the entry that dominates; None where there are none


def exponentiate(
    backend: Backend, x: Array, axes: tuple[int, ...], maximum: Array, temperature: Array | None
) -> Scaled:
    """Exponentials of rows of `x`, shifted and at a temperature, with their two sums.

    `maximum` is a constant of differentiation. Only T > 0 is handled here as a quotient; T = 0 and T = ∞ are the
    limits themselves, and T that is negative or NaN gives NaN.
    """
    xp = backend.namespace(x)
    shift = shift_for(xp, maximum, temperature)
    tied = x == maximum
    if temperature is None:
        u = x  # as far as derivatives go
        e = xp.exp(x - shift)
        top = maximum - shift
    else:
        u = quotient(backend, x, shift, maximum, tied, temperature)
        # exp is exactly 0 there, and its derivative must not become 0 · ∞
        negligible = u < least_exponent(xp, x.dtype)
        e = xp.where(negligible, xp.zeros_like(u), xp.exp(xp.where(negligible, xp.zeros_like(u), u)))
        top = quotient(backend, maximum, shift, maximum, xp.ones_like(maximum, dtype=xp.bool), temperature)
    zero = xp.zeros_like(e)
    k = total(backend, xp.where(tied, e, zero), axes)
    r = total(backend, xp.where(tied, zero, e), axes)
    dead = maximum == -xp.inf
    k = xp.where(dead, xp.ones_like(k), k)
    dominated = (r < k) & (k < 1.5 * xp.exp(top))
    return Scaled(e, k, r, tied, dominated, dead, top, carrier_of(backend, u, tied, dominated, axes))


def carrier_of(backend: Backend, u: Array, tied: Array, dominated: Array, axes: tuple[int, ...]) -> Array | None:
    """z = 0 with the derivatives of the one entry that dominates a row; None where nothing differentiates.

    log Σ exp(u) is z + log(k + r·exp(−z)) with k, the exponential of that entry, a constant. So written no derivative,
    of first order or second, is a difference from the 1 that it holds most of, and small probabilities survive.
    """
    xp = backend.namespace(u)
    if backend.displacement is None and backend.stop_gradient(u) is u:
        return None
    z = displacement(backend, xp.sum(xp.where(tied, u, xp.zeros_like(u)), axis=axes, keepdims=True))
    return xp.where(dominated, z, xp.zeros_like(z))


def displacement(backend: Backend, x: Array) -> Array:
    """0 with the derivatives of `x`."""
    return x - backend.stop_gradient(x) if backend.displacement is None else backend.displacement(x)


def log_of_sum(backend: Backend, rows: Scaled) -> Array:
    """log(k + r), exact near zero, and its derivatives."""
    xp, k, r, z = backend.namespace(rows.k), rows.k, rows.r, rows.z
    if z is None:
        return xp.log1p(r + (k - 1.0))
    k = xp.where(rows.dominated, backend.stop_gradient(k), k)
    return z + xp.log1p(r * xp.exp(-z) + (k - 1.0))


def quotient(backend: Backend, x: Array, shift: Array, maximum: Array, tied: Array, temperature: Array) -> Array:
    """(x − shift)/T, where x − shift may overflow, T may be 0 or ∞, and −inf stays −inf with derivative 0.

    Dividing by 1/T, or dividing before the shift, makes NaN of finite logits (pytorch#163932, and XLA alike).
    """
    xp = backend.namespace(x)
    zero = xp.zeros_like(x)
    low = xp.full_like(x, -xp.inf)
    absent = x == -xp.inf
    cold = temperature == 0
    flat = temperature == xp.inf
    proper = (temperature > 0) & ~flat
    given = xp.where(proper, temperature, xp.ones_like(temperature))
    t = backend.stop_gradient(given)
    d = xp.where(absent, zero, x - shift)
    wide = d == -xp.inf
    halves = xp.where(wide, x * 0.5 - shift * 0.5, zero) / t  # T/2 may be subnormal, which XLA takes for 0
    u = xp.where(wide, 2.0 * halves, xp.where(wide, zero, d) / t)
    if t is not given:  # or nothing is differentiated by it
        beyond = u == -xp.inf
        u = xp.where(beyond, low, xp.where(beyond, zero, u) * _cooling(backend, given, t))
    u = xp.where(absent, low, u)
    undefined = maximum - maximum  # NaN in rows that are NaN at every temperature
    u = xp.where(cold, xp.where(tied, zero, low) + undefined, u)
    u = xp.where(flat, xp.where(absent, low, zero) + undefined, u)
    return xp.where(proper | cold | flat, u, xp.full_like(u, xp.nan))


def _cooling(backend: Backend, temperature: Array, t: Array) -> Array:
    """T/T, with the derivatives of 1/T in it: those of a quotient are of 1/T², which overflows and makes NaN of 0.

    Where 1/T itself overflows there is none, and where its square does there is one of first order.
    """
    xp = backend.namespace(t)
    largest = float(xp.finfo(t.dtype).max)
    one = xp.ones_like(t)
    first = t > 2.0 / largest
    second = t > 2.0 / math.sqrt(largest)
    change = (temperature - t) / xp.where(first, t, one)
    change = xp.where(first, change, xp.zeros_like(t))
    return xp.where(second, one / (1.0 + xp.where(second, change, xp.zeros_like(t))), 1.0 - change)
