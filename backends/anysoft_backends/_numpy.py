"""NumPy: in-place kernels. It has no function of the family of its own, so no row here has a raw answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anysoft.registry import Backend, FastPath, quietly

Array = Any

_FLOAT32, _FLOAT64 = np.dtype("float32"), np.dtype("float64")
_BLOCK = 16
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (_FLOAT32, _FLOAT64)}


def _guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    """For all three: `option` is b or temperature, `reduction` what only a reduction has."""
    if x.__class__ is not np.ndarray:
        return f"the kernel is for plain arrays, not {type(x).__name__}"
    kind = x.dtype
    if kind is not _FLOAT64 and kind is not _FLOAT32:
        return f"the kernel is for float32 and float64, not {kind}"
    if where is not None or option is not None or (reduction and reduction[1]):
        return "the kernel has no where, b, temperature or return_sign"
    if dtype is not None and dtype != x.dtype:
        return f"the kernel's result has the dtype of x, {x.dtype}"
    ndim = x.ndim
    if x.size == 0 or ndim == 0:
        return "the kernel needs at least one axis and one element"
    if axis.__class__ is int:
        return True if -ndim <= axis < ndim else f"axis {axis} is out of range"
    return True if axis is None else f"the kernel takes one axis or all, not {axis!r}"


def _sum(e: Array, axis: int) -> Array:
    """Sum with keepdims. NumPy sums pairwise along a contiguous axis only; elsewhere it adds one by one."""
    n = e.shape[axis]
    if n <= 2 * _BLOCK or e.strides[axis] == e.itemsize:
        return np.add.reduce(e, axis=axis, keepdims=True)
    blocks, rest = divmod(n, _BLOCK)
    rows = np.moveaxis(e, axis, 0)
    sums = np.add.reduce(rows[: n - rest].reshape(blocks, _BLOCK, *rows.shape[1:]), axis=1)
    if rest:
        sums = np.concatenate([sums, np.add.reduce(rows[n - rest :], axis=0, keepdims=True)])
    return np.moveaxis(_sum(sums, 0), 0, axis)


def _rest(e: Array, axis: int, near: Array) -> Array:
    """For the rows marked in `near`: the sum of all exponentials but one of those that are 1."""
    rows = np.moveaxis(e, axis, -1)[near]
    np.put_along_axis(rows, rows.argmax(axis=-1, keepdims=True), 0, axis=-1)
    return np.add.reduce(rows, axis=-1)


def _log_of_sum(e: Array, axis: int) -> Array:
    """log Σ e with keepdims, where the largest of each row is 1: by log1p of the others where the sum is near 1."""
    s = _sum(e, axis)
    near = s < 1.5
    np.log(s, s)
    if near.any():
        rows = np.moveaxis(near, axis, -1)[..., 0]
        np.moveaxis(s, axis, -1)[rows, 0] = np.log1p(_rest(e, axis, rows))
    return s


def _logsumexp(x: Array, axis: int | None, where: None, b: None, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if axis is None or x.ndim == 1:
        value = _logsumexp_of_row(x if x.ndim == 1 else x.ravel(order="K"))
        return np.full((1,) * x.ndim, value) if keepdims else value
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    if np.isfinite(m).all():
        return _logsumexp_of_rows(x, axis, m, keepdims)
    with np.errstate(all="ignore"):
        return _logsumexp_of_rows(x, axis, np.where(np.isfinite(m), m, 0), keepdims)


def _logsumexp_of_row(x: Array) -> Any:
    m = np.maximum.reduce(x)
    if not -math.inf < m < math.inf:
        return m  # NaN, or the infinity that the row comes to
    e = np.subtract(x, m)
    np.exp(e, e)
    value = np.log(np.add.reduce(e)) + m
    if -0.5 < value < 0.5:  # log of a sum near 1 has lost its digits
        e[e.argmax()] = 0
        value = np.log1p(np.add.reduce(e)) + m
    return value


def _logsumexp_of_rows(x: Array, axis: int, m: Array, keepdims: bool) -> Array:
    e = np.subtract(x, m)
    np.exp(e, e)
    value = _sum(e, axis)
    np.log(value, value)
    value += m
    near = np.abs(value) < 0.5
    if near.any():
        rows = np.moveaxis(near, axis, -1)[..., 0]
        np.moveaxis(value, axis, -1)[rows, 0] = np.log1p(_rest(e, axis, rows)) + np.moveaxis(m, axis, -1)[rows, 0]
    return value if keepdims else value.squeeze(axis)


def _softmax(x: Array, axis: int | None, *_: Any) -> Array:
    if axis is None:
        return _softmax(x.reshape(-1), 0).reshape(x.shape)
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    limit = _IN_RANGE[x.dtype]
    if m.size == 1:
        shift = m.item()
        if not -math.inf < shift < math.inf:
            return np.full_like(x, math.nan)
        if 1 <= shift <= limit:
            m.fill(0)
    else:
        m[(m >= 1) & (m <= limit)] = 0
        if not np.isfinite(m).all():
            with np.errstate(all="ignore"):
                return _softmax_of_rows(x, axis, m)
    return _softmax_of_rows(x, axis, m)


def _softmax_of_rows(x: Array, axis: int, shift: Array) -> Array:
    e = np.subtract(x, shift)
    np.exp(e, e)
    np.divide(e, _sum(e, axis), e)
    return e


def _log_softmax(x: Array, axis: int | None, *_: Any) -> Array:
    if axis is None:
        return _log_softmax_of_row(x.reshape(-1)).reshape(x.shape)
    if x.ndim == 1:
        return _log_softmax_of_row(x)
    place = None
    if x.flags.c_contiguous and axis in (-1, x.ndim - 1):
        place = x.argmax(axis=-1).reshape(-1) + np.arange(0, x.size, x.shape[-1])
        m = x.reshape(-1)[place].reshape(*x.shape[:-1], 1)
    else:
        m = np.maximum.reduce(x, axis=axis, keepdims=True)
    if np.isfinite(m).all():
        return _log_softmax_of_rows(x, axis, m, place)
    with np.errstate(all="ignore"):
        return _log_softmax_of_rows(x, axis, m, None)


def _log_softmax_of_row(x: Array) -> Array:
    place = x.argmax()
    m = x[place]
    if not -math.inf < m < math.inf:
        return np.full_like(x, math.nan)
    result = np.subtract(x, m)
    e = np.exp(result)
    e[place] = 0
    np.subtract(result, np.log1p(np.add.reduce(e)), result)
    return result


def _log_softmax_of_rows(x: Array, axis: int, m: Array, place: Array | None) -> Array:
    result = np.subtract(x, m)
    e = np.exp(result)
    if place is None:
        log_s = _log_of_sum(e, axis)
    else:  # the place of each maximum is known: log1p of the others needs no second look
        e.reshape(-1)[place] = 0
        log_s = _sum(e, axis)
        np.log1p(log_s, log_s)
    np.subtract(result, log_s, result)
    return result


BACKEND = Backend(
    name="numpy",
    arrays=("numpy:ndarray", "numpy:generic"),
    namespace=lambda x: np,
    device_of=lambda x: None,  # there is one
    run=quietly,
    fast_paths=(
        FastPath("logsumexp", "numpy kernel", _logsumexp, _guard),
        FastPath("softmax", "numpy kernel", _softmax, _guard),
        FastPath("log_softmax", "numpy kernel", _log_softmax, _guard),
    ),
)
