"""What a chunk comes to, how that is merged, and what is made of chunks with it: softmax, in two passes.

The state of rows is (m, n, r): the maximum, how many entries are tied for it, and the sum of exp(x − c) of all others.
c is 0 where the maximum allows it, or else the maximum (see anysoft/_shift.py): no chunk needs to know another's, and
states with the same c are added as they are. Chunks are NumPy's or CuPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from anysoft._shift import shift_for, total
from anysoft.registry import Backend, backend_of, numpy_backend

Array = Any
Function = TypeVar("Function", bound=Callable[..., Any])


class Sums(NamedTuple):
    """The state of rows, with keepdims."""

    m: Array
    n: Array
    r: Array


def _backend(x: Array) -> tuple[Backend, Any]:
    backend = backend_of(x) or numpy_backend()
    return backend, backend.namespace(x)


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
