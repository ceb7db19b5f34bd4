"""NumPy: in-place kernels. Of the family it has logaddexp alone; what it lacks is SciPy's, which is no part of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anysoft.registry import Backend, FastPath, quietly

Array = Any

_FLOAT32, _FLOAT64 = np.dtype("float32"), np.dtype("float64")
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (_FLOAT32, _FLOAT64)}
# NumPy adds so many in 8 lanes, where a second large term loses a rounding to each small one that joins its lane
_BLOCK = 128


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
    """Sum with keepdims, to a few roundings. float64 sums float32 exactly enough.

    NumPy adds float64 pairwise along a contiguous axis only, and elsewhere one by one: there it is folded in halves.
    """
    if e.dtype is _FLOAT32:
        return np.add.reduce(e, axis=axis, keepdims=True, dtype=_FLOAT64)
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
    if e.dtype is _FLOAT32:
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
    return math.fsum(e.tolist()) if e.size <= _BLOCK else float(np.add.reduce(e, dtype=_FLOAT64))


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
    if x.dtype is _FLOAT32:
        np.divide(e, _sum(e, along).astype(_FLOAT32), e)
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


def _guard_gumbel(bits: Array, dtype: Any) -> bool | str:
    if bits.__class__ is not np.ndarray or dtype not in (_FLOAT32, _FLOAT64):
        return "the kernel is for plain arrays of bits, float32 and float64"
    return True


def _gumbel(bits: Array, dtype: Any) -> Array:
    """The generic formula in place: fresh pages cost more than the logarithms."""
    dtype = np.dtype(dtype)
    unit = dtype.type(2.0**-32)
    if dtype == _FLOAT64:
        v = bits[1, ...].astype(dtype)
        v += 0.5
        v *= unit
        v += bits[0, ...]
    else:
        v = bits.astype(dtype)
        v += dtype.type(0.5)
    v *= unit
    np.minimum(v, dtype.type(1.0 - 0.5 * np.finfo(dtype).eps), out=v)
    for function in (np.negative, np.log1p, np.negative, np.log, np.negative):
        function(v, out=v)
    return v


def _guard_categorical(
    x: Array, axis: Any, where: Any, temperature: Any, shape: None, rng: None, noise: Any
) -> bool | str:
    if noise.__class__ is not np.ndarray or noise.dtype != x.dtype or noise.shape[noise.ndim - x.ndim :] != x.shape:
        return "the kernel takes noise of the dtype and shape of the logits, or several times that shape"
    return "the kernel draws along one axis" if axis is None else _guard(x, axis, where, temperature, None)


def _categorical(x: Array, axis: int, where: None, temperature: None, shape: None, rng: None, noise: Array) -> Any:
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    if not np.isfinite(m).all():
        return NotImplemented
    along = axis % x.ndim - x.ndim
    with np.errstate(all="ignore"):
        keys = np.subtract(x, m)
        keys = np.add(keys, noise, out=keys if noise.ndim == x.ndim else None)
    index = keys.argmax(axis=along, keepdims=True)
    if not np.isfinite(np.take_along_axis(keys, index, axis=along)).all():  # nor was the noise
        return NotImplemented
    return index.squeeze(along)


def _top_k(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    n = x.shape[axis]
    index = np.take(np.argpartition(x, n - k, axis=axis), range(n - k, n), axis=axis)
    some = np.take_along_axis(x, index, axis=axis)
    order = np.argsort(-some, axis=axis)
    return np.take_along_axis(some, order, axis=axis), np.take_along_axis(index, order, axis=axis)


def _random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
    if rng is None or isinstance(rng, int):
        rng = np.random.default_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng.integers(0, 2**32, size=shape, dtype=np.uint32)
    if isinstance(rng, np.random.RandomState):
        return rng.randint(0, 2**32, size=shape, dtype=np.uint32)
    raise TypeError(f"rng must be a numpy.random.Generator or an integer seed here, not {rng!r}")


def _logaddexp(x: Array, y: Any) -> Any:
    with np.errstate(all="ignore"):  # it warns of infinities and of differences past the range
        return np.logaddexp(x, y)


def _guard_elementwise(x: Array, y: Any = None) -> bool | str:
    for one in (x, x if y is None else y):
        if one.__class__ is not np.ndarray or one.dtype not in (_FLOAT64, _FLOAT32):
            return "np.logaddexp is called for plain arrays of float32 or float64"
    if y is not None and x.dtype != y.dtype:
        return f"np.logaddexp would round {x.dtype} and {y.dtype} to one dtype by rules of its own"
    return True


def _guard_log1pexp(x: Array) -> bool | str:
    if x.__class__ is np.ndarray and x.size > 10_000:
        return "np.logaddexp goes one by one: on long arrays the generic formula is faster"
    return _guard_elementwise(x)


# ---------------------------------------------------------------------------------------------------------------------
# Attention

_ENTRIES, _KEYS = 1 << 18, 512  # of a block of scores: a megabyte of float32, near what a core's cache holds


def _guard_attention(
    q: Array, k: Any, v: Any, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> bool | str:
    if return_logsumexp or block_size is not None:
        return "the kernel has no return_logsumexp and no block_size"
    for each in (q, k, v) if where is None else (q, k, v, where):
        if each.__class__ is not np.ndarray:
            return f"the kernel is for plain arrays, not {type(each).__name__}"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (_FLOAT32, _FLOAT64):
        return f"the kernel is for float32 and float64, not {', '.join(str(each.dtype) for each in (q, k, v))}"
    if not (scale is None or isinstance(scale, int | float)) or (where is not None and where.dtype != bool):
        return "the kernel takes a number for the scale and a mask that is boolean"
    if q.ndim < 2 or q.shape[:-2] != k.shape[:-2] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        return "the kernel is for arrays of one batch"
    if not (q.size and k.size):
        return "the kernel needs at least one element"
    if where is not None and not _fits(where.shape, (*q.shape[:-1], k.shape[-2])):
        return "the mask does not broadcast to the scores"
    return True


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) <= len(whole) and all(n in (1, m) for n, m in zip(shape[::-1], whole[::-1], strict=False))


def _attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *_: Any) -> Any:
    """Online softmax in place, unless a score might overflow or something is not finite: there 0 · NaN is NaN."""
    (n_q, width), n_k = q.shape[-2:], k.shape[-2]
    factor = 1 / math.sqrt(width) if scale is None else scale
    with np.errstate(all="ignore"):
        if not _largest(q) * _largest(k) * width * abs(factor or 1) < np.finfo(q.dtype).max / 4:
            return NotImplemented
        q = q * q.dtype.type(factor)
        out = np.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
        if where is not None:
            where = np.broadcast_to(where, (*q.shape[:-1], n_k))
        whole = q.size // width * n_k <= _ENTRIES
        for place in [()] if whole else np.ndindex(q.shape[:-2]):
            rows = n_q if whole else max(_ENTRIES // min(n_k, _KEYS), 1)
            for start in range(0, n_q, rows):
                part = (*place, ..., slice(start, start + rows), slice(None))
                _attend(q[part], k[place], v[place], None if where is None else where[part], out[part])
        return out if np.isfinite(out).all() else NotImplemented


def _largest(x: Array) -> float:
    return max(float(x.max()), -float(x.min()))


def _attend(q: Array, k: Array, v: Array, where: Array | None, out: Array) -> None:
    """Write to `out`, which is 0, the attention of a block of queries that are scaled already."""
    m = np.full((*q.shape[:-1], 1), -np.inf, dtype=q.dtype)
    r, o = np.zeros_like(m), out.copy()
    for start in range(0, k.shape[-2], _KEYS):
        part = slice(start, start + _KEYS)
        e = q @ np.swapaxes(k[..., part, :], -1, -2)
        if where is not None:
            np.copyto(e, -np.inf, where=~where[..., part])
        top = np.maximum(m, np.maximum.reduce(e, axis=-1, keepdims=True))
        origin = np.where(top == -np.inf, 0, top)  # nothing seen yet
        np.subtract(e, origin, e)
        np.exp(e, e)
        old = np.exp(m - origin)
        r = r * old + np.add.reduce(e, axis=-1, keepdims=True)
        o = o * old + e @ v[..., part, :]
        m = top
    np.divide(o, r, out, where=r > 0)


BACKEND = Backend(
    name="numpy",
    arrays=("numpy:ndarray", "numpy:generic"),
    namespace=lambda x: np,
    device_of=lambda x: None,  # there is one
    random_bits=_random_bits,
    run=quietly,
    fast_paths=(
        FastPath("logsumexp", "numpy kernel", _logsumexp, _guard),
        FastPath("softmax", "numpy kernel", _softmax, _guard),
        FastPath("log_softmax", "numpy kernel", _log_softmax, _guard),
        FastPath("gumbel", "numpy kernel", _gumbel, _guard_gumbel),
        FastPath("categorical", "numpy kernel", _categorical, _guard_categorical),
        FastPath("largest", "numpy.argpartition", _top_k),
        FastPath("logaddexp", "numpy.logaddexp", _logaddexp, _guard_elementwise, np.logaddexp),
        FastPath("log1pexp", "numpy.logaddexp", lambda x: _logaddexp(x, 0), _guard_log1pexp),
        FastPath("log_sigmoid", "numpy.logaddexp", lambda x: -_logaddexp(-x, 0), _guard_log1pexp),
        FastPath("attention", "numpy kernel", _attention, _guard_attention),
    ),
)
