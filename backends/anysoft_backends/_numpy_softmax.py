"""logsumexp, softmax and log_softmax by NumPy: one row in scalars, arrays in cache-sized blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anysoft.registry import FastPath
from anysoft_backends._numpy_blocks import (
    BYTES,
    FLOAT32,
    FLOAT64,
    IN_RANGE,
    log_softmax_of_rows,
    logsumexp_of_rows,
    rest_exactly,
    softmax_of_rows,
    sum_along,
)

Array = Any

_ndarray, _DTYPES = np.ndarray, (FLOAT32, FLOAT64)
_ONE32, _ONE64 = np.float32(1), np.float64(1)
_IN_RANGE64 = IN_RANGE[FLOAT64]
_SOME = 2000  # entries that math.fsum adds as soon as NumPy does without rounding
_FEW = 128  # entries for which Python's floats are as fast as NumPy, and whose sum math.fsum makes exact


def guard(
    x: Array, axis: Any, where: Any, option: Any, dtype: Any, keepdims: bool = False, return_sign: bool = False
) -> bool | str:
    """For all three: `option` is b or temperature."""
    if (
        x.__class__ is _ndarray
        and x.dtype in _DTYPES
        and where is None
        and option is None
        and dtype is None
        and not return_sign
        and (axis is None or (axis.__class__ is int and (axis == -1 or -x.ndim <= axis < x.ndim)))
        and x.size
        and x.ndim
    ):
        return True
    return _why_not(x, axis, where, option, dtype, return_sign)


def _why_not(x: Array, axis: Any, where: Any, option: Any, dtype: Any, return_sign: bool) -> bool | str:
    if x.__class__ is not _ndarray:
        return f"the kernel is for plain arrays, not {type(x).__name__}"
    if x.dtype not in _DTYPES:
        return f"the kernel is for float32 and float64, not {x.dtype}"
    if where is not None or option is not None or return_sign:
        return "the kernel has no where, b, temperature or return_sign"
    if dtype is not None and dtype != x.dtype:
        return f"the kernel's result has the dtype of x, {x.dtype}"
    if x.size == 0 or x.ndim == 0:
        return "the kernel needs at least one axis and one element"
    if axis.__class__ is int:
        return True if -x.ndim <= axis < x.ndim else f"axis {axis} is out of range"
    return True if axis is None else f"the kernel takes one axis or all, not {axis!r}"


# ---------------------------------------------------------------------------------------------------------------------
# One row: scalars where the blocks have arrays, for small calls are nothing but overhead


def _exponentials(values: list[float], shift: float) -> list[float]:
    return [math.exp(v - shift) for v in values]


def _number(x: Array, value: float) -> Any:
    """As a scalar of the dtype of `x`: a product with 1 is made in a quarter of the time that the type's call takes."""
    return (_ONE64 if x.itemsize == 8 else _ONE32) * value


def _difference(x: Array, m: Any) -> Array:
    if -1e30 < m < 1e30:  # beside the largest numbers of either dtype, this is nothing
        return np.subtract(x, m)
    with np.errstate(over="ignore"):
        return np.subtract(x, m)


def _shifted(x: Array, place: Any, near: float) -> tuple[Array, float]:
    """x − max and log Σ exp(x − max), of one row whose maximum is at `place`, and finite.

    Where that logarithm is within 1 of `near`, float64 can afford no more than one rounding in all of the sum.
    """
    shifted = _difference(x, x[place])
    e = np.exp(shifted)
    e[place] = 0
    log_sum = math.log1p(np.add.reduce(e, dtype=FLOAT64))
    if x.itemsize == 8 and abs(log_sum - near) < 1:
        log_sum = math.log1p(math.fsum(e.tolist() if e.size <= _SOME else rest_exactly(e)))
    return shifted, log_sum


def _logsumexp_of_row(x: Array) -> Any:
    if x.size <= _FEW:
        values = x.tolist()
        m = max(values)
        if -math.inf < m < math.inf:
            if 1 <= m <= _IN_RANGE64:
                value = math.log(math.fsum(map(math.exp, values)))
            else:
                values.remove(m)
                value = m + math.log1p(math.fsum(_exponentials(values, m)))
            return _number(x, value)
    place = x.argmax()  # of the first NaN, if there is one
    m = float(x[place])
    if not -math.inf < m < math.inf:
        return x[place]  # NaN, or the infinity that the row comes to
    return _number(x, m + _shifted(x, place, -m)[1])


def _softmax_of_row(x: Array) -> Array:
    if x.size <= _FEW:
        values = x.tolist()
        m = max(values)
        if -math.inf < m < math.inf:
            values = [*map(math.exp, values)] if 1 <= m <= _IN_RANGE64 else _exponentials(values, m)
            s = math.fsum(values)
            return np.array([v / s for v in values], x.dtype)
    m = np.maximum.reduce(x)
    if not -math.inf < m < math.inf:
        return np.full_like(x, math.nan)
    e = np.exp(x) if 1 <= m <= IN_RANGE[x.dtype] else np.exp(_difference(x, m))
    place = e.argmax()
    largest = e[place]
    e[place] = 0  # beside it, each small term would lose a rounding
    s = float(np.add.reduce(e, dtype=FLOAT64)) + float(largest)
    np.divide(e, x.dtype.type(s), e)
    e[place] = largest / s
    return e


def _log_softmax_of_row(x: Array) -> Array:
    if x.size <= _FEW:
        values = x.tolist()
        m = max(values)
        if -math.inf < m < 1e30:  # a float32 holds all that comes out
            rest = values.copy()
            rest.remove(m)
            log_sum = math.log1p(math.fsum(_exponentials(rest, m)))
            return np.array([v - m - log_sum for v in values], x.dtype)
    place = x.argmax()
    if not -math.inf < x[place] < math.inf:
        return np.full_like(x, math.nan)
    shifted, log_sum = _shifted(x, place, 0)
    np.subtract(shifted, _number(x, log_sum), shifted)
    return shifted


# ---------------------------------------------------------------------------------------------------------------------
# The calls


def _as_rows(x: Array, axis: int) -> Array:
    """As (outer, n, inner): a view, if there is one."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


def _logsumexp(x: Array, axis: Any, where: None, b: None, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if guard(x, axis, where, b, dtype, keepdims, return_sign) is not True:
        return NotImplemented
    if axis is None or x.ndim == 1:
        row = x if x.ndim == 1 else x.ravel(order="K")
        value = _logsumexp_of_row(row) if row.nbytes <= BYTES else _logsumexp_of_array(row, 0)[()]
        return np.full((1,) * x.ndim, value) if keepdims else value
    along = axis % x.ndim
    turned = x.flags.f_contiguous and not x.flags.c_contiguous
    value = _logsumexp_of_array(x.T, x.ndim - 1 - along).T if turned else _logsumexp_of_array(x, along)
    return np.expand_dims(value, along) if keepdims else value


def _logsumexp_of_array(x: Array, axis: int) -> Array:
    rows = _as_rows(x, axis)
    value = np.empty((rows.shape[0], 1, rows.shape[2]), x.dtype)
    logsumexp_of_rows(rows, value)
    return value.reshape(x.shape[:axis] + x.shape[axis + 1 :])


def _same_shape(of_row: Callable[[Array], Array], of_rows: Callable[[Array, Array], None]) -> Callable[..., Array]:
    def of_array(x: Array, axis: int) -> Array:
        result = np.empty(x.shape, x.dtype)
        of_rows(_as_rows(x, axis), _as_rows(result, axis))
        return result

    def call(x: Array, axis: int | None, where: Any, temperature: Any, dtype: Any) -> Array:
        if guard(x, axis, where, temperature, dtype) is not True:
            return NotImplemented
        if axis is None or x.ndim == 1:
            row = x.reshape(-1)
            return (of_row(row) if row.nbytes <= BYTES else of_array(row, 0)).reshape(x.shape)
        along = axis % x.ndim
        if x.flags.f_contiguous and not x.flags.c_contiguous:  # what lies in memory in order is the transpose
            return of_array(x.T, x.ndim - 1 - along).T
        return of_array(x, along)

    return call


def _guard_sums(x: Array, axes: tuple[int, ...]) -> bool | str:
    return guard(x, axes[0] if len(axes) == 1 else None if len(axes) == x.ndim else axes, None, None, None)


def _sums(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    if len(axes) > 1:
        return tuple(each.reshape((1,) * x.ndim) for each in _sums(x.ravel(order="K"), (0,)))
    (axis,) = axes
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    shift = np.where(((m >= 1) & (m <= IN_RANGE[x.dtype])) | ~np.isfinite(m), 0, m)
    e = np.subtract(x, shift) if shift.any() else x
    e = np.exp(e, out=None if e is x else e)
    place = np.expand_dims(e.argmax(axis=axis), axis)
    largest = np.take_along_axis(e, place, axis)
    np.put_along_axis(e, place, 0, axis)
    return m, largest, sum_along(e, axis).astype(x.dtype, copy=False)


def _guard_exp(g: Array) -> bool | str:
    return True if g.dtype == FLOAT32 else f"it is of float32, not {g.dtype}"


def _exp(g: Array) -> tuple[Array, Array]:
    """exp in two words, from float64: NumPy's own of float32 is off by up to 2.2 ulp, where the contract allows 1.5."""
    wide = g.astype(FLOAT64)
    high = np.where(np.abs(wide) < 0.5, 1, np.exp(wide)).astype(FLOAT32)
    return high, np.where(high == 1, np.expm1(wide), np.exp(wide) - high).astype(FLOAT32)


PATHS = (
    FastPath("LogSumExp.exp", "numpy kernel", _exp, _guard_exp),
    FastPath("LogSumExp.sums", "numpy kernel", _sums, _guard_sums),
    FastPath("logsumexp", "numpy kernel", _logsumexp, guard, asks_itself=True),
    FastPath("softmax", "numpy kernel", _same_shape(_softmax_of_row, softmax_of_rows), guard, asks_itself=True),
    FastPath(
        "log_softmax", "numpy kernel", _same_shape(_log_softmax_of_row, log_softmax_of_rows), guard, asks_itself=True
    ),
)
