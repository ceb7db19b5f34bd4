"""What a chunk comes to, how that is merged, and what is then made of the chunks. They are NumPy's or CuPy's.

For logsumexp the state of rows is anysoft's `LogSumExp`. For softmax and log_softmax, which is exact near zero only if
the largest entry stands alone, it is (m, n, r): the maximum, how many entries are tied for it, and the sum of
exp(x − c) of all others. c is 0 where the maximum allows it, or else the maximum (see anysoft/_shift.py), so that no
chunk needs to know another's, and states with the same c are added as they are.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import dask.sizeof
import numpy as np

import anysoft
from anysoft._arguments import without_axes
from anysoft._shift import shift_for, total
from anysoft.online import LogSumExp
from anysoft.registry import Backend, backend_of, numpy_backend

Array = Any


def _backend(x: Array) -> tuple[Backend, Any]:
    backend = backend_of(x) or numpy_backend()
    return backend, backend.namespace(x)


def elementwise(name: str, *arrays: Array) -> Array:
    """A function of anysoft's of one chunk of each."""
    return getattr(anysoft, name)(*arrays)


def chunk_sum(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Of one chunk, or of the sums of many."""
    value = total(_backend(x)[0], x, axis)
    return value if keepdims else without_axes(value, axis)


def chunk_max(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Of one chunk, or of the maxima of many; −inf where there is nothing."""
    _, xp = _backend(x)
    if any(x.shape[one] == 0 for one in axis):
        return xp.sum(x, axis=axis, keepdims=keepdims) - xp.inf
    return xp.max(x, axis=axis, keepdims=keepdims)


def log_sum(x: Array, where: Array | None, b: Array | None, axes: tuple[int, ...]) -> LogSumExp:
    """The state of one chunk."""
    return LogSumExp.from_array(x, axes, where=where, b=b, keepdims=True)


def _size(state: LogSumExp) -> int:
    return sum(int(each.nbytes) for each in state.tree_flatten()[0] if each is not None)


sizeof: Any = dask.sizeof.sizeof
sizeof.register(LogSumExp, _size)


def merged_log_sums(found: list[LogSumExp]) -> LogSumExp:
    """That of all chunks together, in any order."""
    return functools.reduce(LogSumExp.merge, found)


def value(state: LogSumExp, place: int | None) -> Array:
    """The logarithm, or the first or second of the logarithm and the sign."""
    return state.value() if place is None else state.value(return_sign=True)[place]


class Sums(NamedTuple):
    """The state of rows, with keepdims."""

    m: Array
    n: Array
    r: Array


def sums(x: Array, where: Array | None, axes: tuple[int, ...], dtype: Any) -> Sums:
    """The state of one chunk, computed in a dtype."""
    backend, xp = _backend(x)
    x = _masked(xp, x, where, dtype)
    if any(x.shape[axis] == 0 for axis in axes):
        zero = xp.sum(x, axis=axes, keepdims=True)
        return Sums(zero - xp.inf, zero, zero)
    with np.errstate(all="ignore"):
        m = xp.max(x, axis=axes, keepdims=True)
        tied = x == m
        e = xp.exp(x - shift_for(xp, m))
        return Sums(
            m,
            total(backend, xp.astype(tied, dtype), axes),
            total(backend, xp.where(tied, xp.zeros_like(e), e), axes),
        )


def merged_sums(states: list[Sums]) -> Sums:
    """That of all chunks together, in any order."""
    backend, xp = _backend(states[0].m)
    ms, ns, rs = (xp.stack(parts) for parts in zip(*states, strict=True))
    with np.errstate(all="ignore"):
        m = xp.max(ms, axis=0, keepdims=True)
        shifts, shift = shift_for(xp, ms), shift_for(xp, m)
        tied, zero = ms == m, xp.zeros_like(ms)
        others = rs + xp.where(tied, zero, ns * xp.exp(ms - shifts))
        others = xp.where(ms == -xp.inf, zero, others * xp.exp(shifts - shift))
        n = total(backend, xp.where(tied, ns, zero), (0,))
        return Sums(m[0, ...], n[0, ...], total(backend, others, (0,))[0, ...])


def softmax(x: Array, where: Array | None, state: Sums, dtype: Any) -> Array:
    """Of one chunk, where the state is that of all."""
    _, xp = _backend(x)
    x, (m, n, r) = _masked(xp, x, where, state.m.dtype), state
    with np.errstate(all="ignore"):
        shift = shift_for(xp, m)
        p = xp.exp(x - shift) / (n * xp.exp(m - shift) + r)
        return _finished(xp, p, where, 0.0, dtype)


def log_softmax(x: Array, where: Array | None, state: Sums, dtype: Any) -> Array:
    """Of one chunk, where the state is that of all."""
    _, xp = _backend(x)
    x, (m, n, r) = _masked(xp, x, where, state.m.dtype), state
    with np.errstate(all="ignore"):
        rest = (n - 1.0) + r * xp.exp(shift_for(xp, m) - m)
        undefined = xp.where(xp.abs(m) == xp.inf, xp.full_like(m, xp.nan), xp.zeros_like(m))
        log_p = xp.where(x == m, xp.zeros_like(x), x - m) - (xp.log1p(rest) + undefined)
        return _finished(xp, log_p, where, -xp.inf, dtype)


def _masked(xp: Any, x: Array, where: Array | None, dtype: Any) -> Array:
    x = xp.astype(x, dtype, copy=False)
    return x if where is None else xp.where(where, x, xp.full_like(x, -xp.inf))


def _finished(xp: Any, value: Array, where: Array | None, excluded: float, dtype: Any) -> Array:
    if where is not None:
        value = xp.where(where, value, xp.full_like(value, excluded))
    return xp.astype(value, dtype, copy=False)
