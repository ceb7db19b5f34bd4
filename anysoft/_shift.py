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
        e = xp.exp(x - shift)
        top = maximum - shift
    else:
        u = quotient(xp, x, shift, maximum, tied, temperature)
        negligible = u < -4.0 * log_max(xp, x.dtype)
        # exp is exactly 0 there, and its derivative must not become 0 · ∞
        e = xp.where(negligible, xp.zeros_like(u), xp.exp(xp.where(negligible, xp.zeros_like(u), u)))
        top = quotient(xp, maximum, shift, maximum, xp.ones_like(maximum, dtype=xp.bool), temperature)
    zero = xp.zeros_like(e)
    k = total(backend, xp.where(tied, e, zero), axes)
    r = total(backend, xp.where(tied, zero, e), axes)
    dead = maximum == -xp.inf
    k = xp.where(dead, xp.ones_like(k), k)
    dominated = (r < k) & (k < 1.5 * xp.exp(top))
    return Scaled(e, k, r, tied, dominated, dead, top)


def quotient(xp: Any, x: Array, shift: Array, maximum: Array, tied: Array, temperature: Array) -> Array:
    """(x − shift)/T, where x − shift may overflow, T may be 0 or ∞, and −inf stays −inf with derivative 0.

    Dividing by 1/T, or dividing before the shift, makes NaN of finite logits (pytorch#163932, and XLA alike).
    """
    zero = xp.zeros_like(x)
    low = xp.full_like(x, -xp.inf)
    absent = x == -xp.inf
    cold = temperature == 0
    flat = temperature == xp.inf
    proper = (temperature > 0) & ~flat
    t = xp.where(proper, temperature, xp.ones_like(temperature))
    d = xp.where(absent, zero, x - shift)
    wide = d == -xp.inf
    halves = xp.where(wide, x * 0.5 - shift * 0.5, zero) / (t * 0.5)
    u = xp.where(wide, halves, xp.where(wide, zero, d) / t)
    u = xp.where(absent, low, u)
    undefined = maximum - maximum  # NaN in rows that are NaN at every temperature
    u = xp.where(cold, xp.where(tied, zero, low) + undefined, u)
    u = xp.where(flat, xp.where(absent, low, zero) + undefined, u)
    return xp.where(proper | cold | flat, u, xp.full_like(u, xp.nan))
