"""JAX: logsumexp, softmax and log_softmax of plain rows, in as few passes as XLA can make.

XLA's CPU kernels take a maximum, or a sum of exponentials, in one pass each; but a comparison among what is summed has
it written to memory first. So entries are told from the maximum only where the result needs it, which the reduced
results show: `lax.cond` looks whether any row does. Derivatives are written out in the same way, and none is a
difference from the 1 that one entry holds most of.

Rows are reduced with keepdims throughout. `most` is the maximum of rows of which one entry holds more than half, and
NaN, which no entry equals, for all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any
Axes = tuple[int, ...]

_SHORT = 16  # entries that are written out, so that all sums over them are one loop
_SMALL = 2**14  # arrays for which XLA has no kernel, and loses 12 roundings in a sum of 2000 equal terms (measured)
_FEW = 32  # terms that it adds one by one


def _is_short(x: Array, axes: Axes) -> bool:
    # where the type of an array says how it is sharded, JAX does not cut along an axis that is
    return len(axes) == 1 and x.shape[axes[0]] <= _SHORT and not any(jax.typeof(x).sharding.spec)


def _max(x: Array, axes: Axes) -> Array:
    return jnp.max(x, axis=axes, keepdims=True)


def _sum(x: Array, axes: Axes) -> Array:
    """A sum within a few roundings: halves are added where XLA itself would add one by one."""
    if x.size > _SMALL:
        return jnp.sum(x, axis=axes, keepdims=True)
    for axis in axes:
        x = _sum_of_halves(x, axis)
    return x


def _sum_of_halves(x: Array, axis: int) -> Array:
    # an axis may be sharded over as many devices: what is added is then within a shard
    blocks = math.gcd(x.shape[axis], jax.device_count())
    x = x.reshape(*x.shape[:axis], blocks, -1, *x.shape[axis + 1 :])
    cut = partial(lax.slice_in_dim, axis=axis + 1)
    while (n := x.shape[axis + 1]) > _FEW:
        half = n // 2
        folded = cut(x, 0, half) + cut(x, half, 2 * half)
        x = jnp.concat([folded, cut(x, n - 1, n)], axis=axis + 1) if n % 2 else folded
    return jnp.expand_dims(jnp.sum(x, axis=(axis, axis + 1)), axis)


def _shift(m: Array) -> Array:
    """What to subtract so that exp stays in range: 0 where the maximum is from 1 to the limit, or else the maximum.

    By operations that XLA's kernels have, so that it changes steeply near 1 and the limit; any shift is right there.
    It is +inf for rows with +inf.
    """
    form = np.finfo(m.dtype)
    limit = 0.45 * math.log(float(form.max))
    needed = 1024.0 * jnp.maximum(1.0 - m, m - limit)
    return jnp.maximum(jnp.minimum(m, jnp.maximum(needed, 0.0)), float(form.min))


def _dominated(m: Array, c: Array, s: Array) -> Array:
    """Whether one entry holds more than half, and clearly: exp may differ by an ulp from the one that was summed."""
    return s < 1.999 * jnp.exp(m - c)


@jax.custom_batching.custom_vmap
def _any(rows: Array) -> Array:
    return jnp.any(rows)


@_any.def_vmap
def _any_of_all(size: int, batched: Any, rows: Array) -> tuple[Array, bool]:
    # of all that vmap maps over, so that a condition stays one: else both of its branches would be computed
    return _any(rows), False


def _below(x: Array, m: Array) -> Array:
    """0 at the maximum, and 1 elsewhere; by operations that XLA's kernels have, as in `_shift`."""
    return jnp.minimum((m - x) * float(np.finfo(x.dtype).max) ** 0.75, 1.0)


def _excess(x: Array, m: Array, axes: Axes) -> Array:
    """Σ exp(x − m) − 1, however small."""

    def total(term: Callable[[Array], Array]) -> Array:
        if not _is_short(x, axes):
            return _sum(term(x), axes)
        terms = [term(each) for each in jnp.split(x, x.shape[axes[0]], axis=axes[0])]
        while len(terms) > 1:
            odd = terms[len(terms) // 2 * 2 :]
            terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + odd
        return terms[0]

    rest = total(lambda x: jnp.exp(x - m) * _below(x, m))
    ties = total(lambda x: 1.0 - _below(x, m))
    return rest + (ties - 1.0)


def _excess_of(s: Array, x: Array, m: Array, c: Array, axes: Axes) -> Array:
    """The same, of a sum that is known but for its digits, and is not many times its largest term: so ties count."""
    top = jnp.exp(m - c)
    rest = _sum(jnp.exp(x - c) * _below(x, m), axes)
    return rest / top + (jnp.round((s - rest) / top) - 1.0)


def _careful_sum(e: Array, x: Array, m: Array, c: Array, axes: Axes) -> Array:
    """Σ e with e = exp(x − c); an entry that holds more than a quarter is summed apart: it costs the others digits."""
    top = jnp.exp(m - c)
    if _is_short(x, axes):
        return jnp.where(jnp.abs(m) == jnp.inf, _sum(e, axes), top + top * _excess(x, m, axes))
    s = _sum(e, axes)
    leads = s < 4.0 * top

    def again(x: Array) -> Array:
        return jnp.where(leads, top + top * _excess_of(s, x, m, c, axes), s)

    return lax.cond(_any(leads), again, lambda x: s, x)


# ---------------------------------------------------------------------------------------------------------------------
# logsumexp


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def logsumexp(x: Array, axes: Axes) -> Array:
    """c + log Σ exp(x − c); near 0, where that would lose it, m + log1p(Σ exp(x − m) − 1)."""
    m = _max(x, axes)
    if _is_short(x, axes):
        return jnp.where(jnp.abs(m) == jnp.inf, m, m + jnp.log1p(_excess(x, m, axes)))
    c = _finite_shift(m)
    value = c + jnp.log(_sum(jnp.exp(x - c), axes))
    near = jnp.abs(value) < 1

    def again(x: Array) -> Array:
        return jnp.where(near, m + jnp.log1p(_excess(x, m, axes)), value)

    return lax.cond(_any(near), again, lambda x: value, x)


@logsumexp.defjvp
def _logsumexp_jvp(axes: Axes, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    return logsumexp(x, axes), _sum(_weights(x, axes) * t, axes)


def _finite_shift(m: Array) -> Array:
    return jnp.minimum(_shift(m), float(np.finfo(m.dtype).max))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _weights(x: Array, axes: Axes) -> Array:
    """The gradient of logsumexp: softmax; 0 in rows of −inf only, and of a maximum where that is +inf."""
    m = _max(x, axes)
    c = _finite_shift(m)
    e = jnp.exp(x - c)
    s = _careful_sum(e, x, m, c, axes)
    endless = m == jnp.inf

    def count(x: Array) -> Array:
        return _sum(jnp.where(x == jnp.inf, 1.0, jnp.zeros_like(x)), axes)

    share = 1.0 / lax.cond(_any(endless), count, lambda x: jnp.ones_like(m), x)
    p = e / jnp.where(m == -jnp.inf, 1.0, s)
    return jnp.where(x == jnp.inf, jnp.where(endless, share, jnp.nan), p)


@_weights.defjvp
def _weights_jvp(axes: Axes, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    flat = jnp.abs(lax.stop_gradient(_max(x, axes))) == jnp.inf
    calm = jnp.where(flat, 0.0, x)
    return _weights(x, axes), jnp.where(flat, 0.0, _covariance(t, calm, *_exponentials(calm, axes), axes))


# ---------------------------------------------------------------------------------------------------------------------
# softmax


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(x: Array, axes: Axes) -> Array:
    """exp(x − c) / Σ exp(x − c)."""
    m = _max(x, axes)
    c = _shift(m)
    e = jnp.exp(x - c)
    return e / _careful_sum(e, x, m, c, axes)


@softmax.defjvp
def _softmax_jvp(axes: Axes, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    return softmax(x, axes), _covariance(t, x, *_exponentials(x, axes), axes)


def _exponentials(x: Array, axes: Axes) -> tuple[Array, Array, Array]:
    """exp(x − c), its sum, and `most`: constants of differentiation."""
    x = lax.stop_gradient(x)
    m = _max(x, axes)
    c = _shift(m)
    e = jnp.exp(x - c)
    s = _careful_sum(e, x, m, c, axes)
    # rows of −inf only have no probabilities, and a derivative of 0 all the same
    return e, jnp.where(m == -jnp.inf, 1.0, s), jnp.where(_dominated(m, c, s), m, jnp.nan)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _shares(x: Array, e: Array, s: Array, most: Array, axes: Axes) -> Array:
    """softmax(x), of which all is known."""
    return e / s


@_shares.defjvp
def _shares_jvp(axes: Axes, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, e, s, most = primals
    return _shares(x, e, s, most, axes), _covariance(tangents[0], x, e, s, most, axes)


def _covariance(t: Array, x: Array, e: Array, s: Array, most: Array, axes: Axes) -> Array:
    """p·(t − Σ p·t), the derivative of softmax."""

    def plain(t: Array, x: Array, e: Array, s: Array, most: Array) -> Array:
        p = _shares(x, e, s, most, axes)
        return p * (t - _sum(p * t, axes))

    def careful(t: Array, x: Array, e: Array, s: Array, most: Array) -> Array:
        d, others = _beside_most(t, x, e, s, most, axes)
        change = others * (d - _sum(others * d, axes))
        return jnp.where(x == most, -_sum(change, axes), change)

    return _if_dominated(careful, plain, axes, t, x, e, s, most)


def _beside_most(t: Array, x: Array, e: Array, s: Array, most: Array, axes: Axes) -> tuple[Array, Array]:
    """`t` less what it is at the entry that holds most, and all other probabilities."""
    at = x == most
    zero = jnp.zeros_like(t)
    origin = _sum(jnp.where(at, t, zero), axes)
    return jnp.where(at, zero, t - origin), jnp.where(at, zero, _shares(x, e, s, most, axes))


def _if_dominated(careful: Callable[..., Array], plain: Callable[..., Array], axes: Axes, *operands: Array) -> Array:
    """`careful` if there are dominated rows. Nothing is kept for a derivative: JAX would, for both of them."""
    most = operands[-1]
    branches = (jax.checkpoint(branch, prevent_cse=False) for branch in (careful, plain))
    return lax.cond(_any(most == most), *branches, *operands)


# ---------------------------------------------------------------------------------------------------------------------
# log_softmax


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_softmax(x: Array, axes: Axes) -> Array:
    """x − c − log Σ exp(x − c); where one entry holds most, x − m − log1p(Σ exp(x − m) − 1)."""
    m = _max(x, axes)
    if _is_short(x, axes):
        return (x - m) - jnp.where(jnp.abs(m) == jnp.inf, jnp.nan, jnp.log1p(_excess(x, m, axes)))
    c = _shift(m)
    s = _sum(jnp.exp(x - c), axes)
    dominated = _dominated(m, c, s)
    logarithm = jnp.log(s)

    def again(x: Array) -> tuple[Array, Array]:
        return jnp.where(dominated, m, c), jnp.where(dominated, jnp.log1p(_excess_of(s, x, m, c, axes)), logarithm)

    origin, rest = lax.cond(_any(dominated), again, lambda x: (c, logarithm), x)
    return (x - origin) - rest


@log_softmax.defjvp
def _log_softmax_jvp(axes: Axes, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    return log_softmax(x, axes), _centred(t, x, *_exponentials(x, axes), axes)


def _centred(t: Array, x: Array, e: Array, s: Array, most: Array, axes: Axes) -> Array:
    """t − Σ p·t, the derivative of log_softmax."""

    def plain(t: Array, x: Array, e: Array, s: Array, most: Array) -> Array:
        return t - _sum(_shares(x, e, s, most, axes) * t, axes)

    def careful(t: Array, x: Array, e: Array, s: Array, most: Array) -> Array:
        d, others = _beside_most(t, x, e, s, most, axes)
        return d - _sum(others * d, axes)

    return _if_dominated(careful, plain, axes, t, x, e, s, most)
