"""logsumexp, softmax and log_softmax by NumPy, in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anysoft.registry import FastPath

Array = Any

FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (FLOAT32, FLOAT64)}
# NumPy adds so many in 8 lanes, where a second large term loses a rounding to each small one that joins its lane
_BLOCK = 128


def guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    """For all three: `option` is b or temperature, `reduction` what only a reduction has."""
    if x.__class__ is not np.ndarray:
        return f"the kernel is for plain arrays, not {type(x).__name__}"
    kind = x.dtype
    if kind is not FLOAT64 and kind is not FLOAT32:
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
    """Sum with keepdims, to a few roundings. float64 sums float32 exactly enough.

    NumPy adds float64 pairwise along a contiguous axis only, and elsewhere one by one: there it is folded in halves.
    """
    if e.dtype is FLOAT32:
        return np.add.reduce(e, axis=axis, keepdims=True, dtype=FLOAT64)
    if e.strides[axis] == e.itemsize:
        return np.add.reduce(e, axis=axis, keepdims=True)
    rows = np.moveaxis(e, axis, 0)
    n = len(rows)
    while n > 4:
        half, odd = divmod(n, 2)
        folded = np.add(rows[:half], rows[half : 2 * half])
        if odd:
            folded[0] += rows[n - 1]
        rows, n = folded, half
    return np.moveaxis(np.add.reduce(rows, axis=0, keepdims=True), 0, axis)


def _without_largest(e: Array, axis: int) -> tuple[Array, Any, Array, Array]:
    """Set the largest entry of each row to 0, and sum the others: beside it, each of them would lose a rounding.

    Returns `e` (or a flat view), the places in it, what was there, and the sums.
    """
    if e.flags.c_contiguous and axis in (-1, e.ndim - 1):
        target = e.reshape(-1)
        place: Any = e.argmax(axis=-1).reshape(-1) + np.arange(0, e.size, e.shape[-1])
    else:
        indices = list(np.indices(e.shape[:axis] + e.shape[axis + 1 :], sparse=True))
        indices.insert(axis, e.argmax(axis=axis))
        target, place = e, tuple(indices)
    largest = target[place]
    target[place] = 0
    return target, place, largest, _sum(e, axis)


def _log_sum(e: Array, axis: int) -> Array:
    """log Σ e with keepdims, where the largest of each row is 1, as log1p of the sum of the others; `e` is used up."""
    if e.dtype is FLOAT32:
        rest = _sum(e, axis) - 1.0
        few = rest < 1e-8 + 6e-9 * e.shape[axis]  # beside 1, even float64 loses too much of them
        if few.any():
            rows = np.moveaxis(few, axis, -1)[..., 0]
            np.moveaxis(rest, axis, -1)[rows, :] = _without_largest(np.moveaxis(e, axis, -1)[rows], 1)[3]
    else:
        rest = _without_largest(e, axis)[3]
    return np.log1p(rest, rest).astype(e.dtype, copy=False)


def _shifted(x: Array, axis: int) -> tuple[Array, Array, Array | None]:
    """x − max, the maximum, and where it is not finite, if anywhere: there the row's answer is known without a sum."""
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    finite = np.isfinite(m)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = np.subtract(x, m)
    if finite.all():
        return shifted, m, None
    return np.where(finite, shifted, 0), m, ~finite


def _logsumexp(x: Array, axis: Any, where: None, b: None, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if axis is None or x.ndim == 1:
        value = _logsumexp_of_row(x if x.ndim == 1 else x.ravel(order="K"))
        return np.full((1,) * x.ndim, value) if keepdims else value
    along = axis % x.ndim
    e, m, odd = _shifted(x, along)
    value = _log_sum(np.exp(e, e), along)
    value += m
    if odd is not None:
        np.copyto(value, m, where=odd)
    return value if keepdims else value.squeeze(along)


def _of_row(x: Array) -> tuple[Any, Array, float]:
    """Of one row: its maximum, x − max, and the sum of the exponentials of all other entries."""
    place = x.argmax()
    m = x[place]
    shifted = _difference(x, m)
    e = np.exp(shifted)
    e[place] = 0
    return m, shifted, _total(e)


def _total(e: Array) -> float:
    """The sum of one row: exact for a short one, which for a few terms is the faster way too."""
    return math.fsum(e.tolist()) if e.size <= _BLOCK else float(np.add.reduce(e, dtype=FLOAT64))


def _difference(x: Array, m: Any) -> Array:
    if -1e30 < m < 1e30:  # beside the largest numbers of either dtype, this is nothing
        return np.subtract(x, m)
    with np.errstate(over="ignore"):
        return np.subtract(x, m)


def _is_finite(m: Any) -> bool:
    return bool(-math.inf < m < math.inf)


def _logsumexp_of_row(x: Array) -> Any:
    m = np.maximum.reduce(x)
    if not _is_finite(m):
        return m  # NaN, or the infinity that the row comes to
    m, _, rest = _of_row(x)
    return x.dtype.type(math.log1p(rest) + m)


def _softmax_of_row(x: Array) -> Array:
    m = np.maximum.reduce(x)
    if not _is_finite(m):
        return np.full_like(x, math.nan)
    e = np.exp(x) if 1 <= m <= _IN_RANGE[x.dtype] else np.exp(_difference(x, m))
    place = e.argmax()
    largest = e[place]
    e[place] = 0  # beside it, each small term would lose a rounding
    s = _total(e) + float(largest)
    np.divide(e, x.dtype.type(s), e)
    e[place] = largest / s
    return e


def _log_softmax_of_row(x: Array) -> Array:
    if not _is_finite(np.maximum.reduce(x)):
        return np.full_like(x, math.nan)
    _, shifted, rest = _of_row(x)
    np.subtract(shifted, x.dtype.type(math.log1p(rest)), shifted)
    return shifted


def _softmax(x: Array, axis: int | None, *_: Any) -> Array:
    if axis is None or x.ndim == 1:
        return _softmax_of_row(x.reshape(-1)).reshape(x.shape)
    along = axis % x.ndim
    m = np.maximum.reduce(x, axis=along, keepdims=True)
    finite = np.isfinite(m)
    with np.errstate(invalid="ignore", over="ignore"):
        m[(m >= 1) & (m <= _IN_RANGE[x.dtype])] = 0
        e = np.subtract(x, m)
    np.exp(e, e)
    if x.dtype is FLOAT32:
        np.divide(e, _sum(e, along).astype(FLOAT32), e)
    else:
        target, place, largest, rest = _without_largest(e, along)
        rest += largest.reshape(rest.shape)
        np.divide(e, rest, e)
        target[place] = largest / rest.reshape(largest.shape)
    if not finite.all():
        np.copyto(e, math.nan, where=~finite)
    return e


def _log_softmax(x: Array, axis: int | None, *_: Any) -> Array:
    if axis is None or x.ndim == 1:
        return _log_softmax_of_row(x.reshape(-1)).reshape(x.shape)
    along = axis % x.ndim
    result, _m, odd = _shifted(x, along)
    np.subtract(result, _log_sum(np.exp(result), along), result)
    if odd is not None:
        np.copyto(result, math.nan, where=odd)
    return result


def _guard_sums(x: Array, axes: tuple[int, ...]) -> bool | str:
    return guard(x, axes[0] if len(axes) == 1 else None if len(axes) == x.ndim else axes, None, None, None)


def _sums(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    if len(axes) > 1:
        return tuple(each.reshape((1,) * x.ndim) for each in _sums(x.ravel(order="K"), (0,)))
    (axis,) = axes
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    shift = np.where(((m >= 1) & (m <= _IN_RANGE[x.dtype])) | ~np.isfinite(m), 0, m)
    e = np.subtract(x, shift) if shift.any() else x
    _, _, largest, rest = _without_largest(np.exp(e, out=None if e is x else e), axis)
    return m, largest.reshape(m.shape), rest.astype(x.dtype, copy=False)


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
    FastPath("logsumexp", "numpy kernel", _logsumexp, guard),
    FastPath("softmax", "numpy kernel", _softmax, guard),
    FastPath("log_softmax", "numpy kernel", _log_softmax, guard),
)
