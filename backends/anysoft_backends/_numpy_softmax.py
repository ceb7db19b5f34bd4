"""logsumexp, softmax and log_softmax by NumPy, a cache-sized block at a time.

An array is taken as (outer, n, inner), reduced along n, and cut into blocks. Where the maxima of a block allow it there
is no shift and the sum is the answer's (see anysoft/_shift.py); elsewhere a row is its maximum and the sum of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from anysoft.registry import FastPath

Array = Any

FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (FLOAT32, FLOAT64)}
_BYTES = 1 << 18  # of a block: it stays in the second-level cache, with its exponentials
_FEW = 128  # entries for which Python's floats are as fast as NumPy, and whose sum math.fsum makes exact
_SHORT = 32  # a loop of NumPy's over fewer entries costs more to start than to run
_WIDE = 2048  # and over so many it costs nothing


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


# ---------------------------------------------------------------------------------------------------------------------
# One row: scalars where the blocks have arrays, for small calls are nothing but overhead


def _exponentials(values: list[float], shift: float) -> list[float]:
    return [math.exp(v - shift) for v in values]


def _difference(x: Array, m: Any) -> Array:
    if -1e30 < m < 1e30:  # beside the largest numbers of either dtype, this is nothing
        return np.subtract(x, m)
    with np.errstate(over="ignore"):
        return np.subtract(x, m)


def _of_row(x: Array) -> tuple[Any, Array, float]:
    """Of one row with a finite maximum: that, x − max, and the sum of the exponentials of all other entries."""
    place = x.argmax()
    shifted = _difference(x, x[place])
    e = np.exp(shifted)
    e[place] = 0
    return x[place], shifted, float(np.add.reduce(e, dtype=FLOAT64))


def _logsumexp_of_row(x: Array) -> Any:
    if x.size <= _FEW:
        values = x.tolist()
        m = max(values)
        if -math.inf < m < math.inf:
            values.remove(m)
            return x.dtype.type(m + math.log1p(math.fsum(_exponentials(values, m))))
    m = np.maximum.reduce(x)
    if not -math.inf < m < math.inf:
        return m  # NaN, or the infinity that the row comes to
    m, _, rest = _of_row(x)
    return x.dtype.type(math.log1p(rest) + m)


def _softmax_of_row(x: Array) -> Array:
    if x.size <= _FEW:
        values = x.tolist()
        m = max(values)
        if -math.inf < m < math.inf:
            values = _exponentials(values, 0 if 1 <= m <= _IN_RANGE[FLOAT64] else m)
            s = math.fsum(values)
            return np.array([v / s for v in values], x.dtype)
    m = np.maximum.reduce(x)
    if not -math.inf < m < math.inf:
        return np.full_like(x, math.nan)
    e = np.exp(x) if 1 <= m <= _IN_RANGE[x.dtype] else np.exp(_difference(x, m))
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
    if not -math.inf < np.maximum.reduce(x) < math.inf:
        return np.full_like(x, math.nan)
    _, shifted, rest = _of_row(x)
    np.subtract(shifted, x.dtype.type(math.log1p(rest)), shifted)
    return shifted


# ---------------------------------------------------------------------------------------------------------------------
# Sums of arrays: NumPy adds float64 pairwise along a contiguous axis only, and elsewhere one by one


def _largest(x: Array, axis: int) -> Array:
    return np.maximum.reduce(x, axis=axis, keepdims=True)


def _sum(e: Array, axis: int) -> Array:
    """Sum with keepdims, to a few roundings: float64 sums float32 exactly enough, and itself in halves."""
    if e.dtype is FLOAT32:
        return np.add.reduce(e, axis=axis, keepdims=True, dtype=FLOAT64)
    rows = np.moveaxis(e, axis, 0)
    n = len(rows)
    while n > 4:
        half, odd = divmod(n, 2)
        folded = np.add(rows[:half], rows[half : 2 * half])
        if odd:
            folded[0] += rows[n - 1]
        rows, n = folded, half
    return np.moveaxis(np.add.reduce(rows, axis=0, keepdims=True), 0, axis)


def _merge(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of two sets of terms, each as its largest and the sum of the others, the same."""
    return np.maximum(one[0], other[0]), one[1] + other[1] + np.minimum(one[0], other[0])


def _without_largest(e: Array) -> tuple[Array, Array]:
    """The largest along the first axis, and the sum of the others: beside it each would lose a rounding. Uses `e` up."""
    rest = np.zeros_like(e)
    while (n := len(e)) > 1:
        half = n // 2
        kept = n - half
        e[:half], rest[:half] = _merge((e[:half], rest[:half]), (e[kept:], rest[kept:]))
        e, rest = e[:kept], rest[:kept]
    return e[0], rest[0]


def _without_largest_of_rows(e: Array) -> tuple[Array, Array]:
    """The same along the last axis, if contiguous, with keepdims; it leaves `e` as it was."""
    rows = e.reshape(-1, e.shape[-1])
    place = np.arange(len(rows)), rows.argmax(axis=-1)
    largest = rows[place]
    rows[place] = 0
    rest = np.add.reduce(e, axis=-1, keepdims=True)
    rows[place] = largest
    return largest.reshape(rest.shape), rest


def _cascade(merge: Callable[[Any, Any], Any], terms: Iterable[Any]) -> Any:
    """Merge many in pairs, of which only a few are kept at a time."""
    stack: list[Any] = []
    for i, term in enumerate(terms, 1):
        while i % 2 == 0:
            term = merge(stack.pop(), term)
            i //= 2
        stack.append(term)
    return reduce(merge, reversed(stack))


# ---------------------------------------------------------------------------------------------------------------------
# Blocks of rows


class _Block(NamedTuple):
    """A part of an array (outer, n, inner), and the form to work in: one piece or several, reduced along `axis`."""

    part: tuple[slice, slice, slice]
    order: tuple[int, int, int]  # of the axes in a piece; each that is used is its own inverse
    axis: int
    stretches: int = 0  # side by side in a piece of a long row; 0: there is one piece, the part itself

    def pieces(self, array: Array) -> list[Array]:
        array = array[self.part]
        if not self.stretches:
            return [array.transpose(self.order)]
        _, n, inner = array.shape
        whole = n - n % self.stretches
        wide = array[:, :whole].reshape(1, -1, self.stretches * inner)
        rows = _size(array) // wide.shape[2]
        pieces = [wide[:, i : i + rows] for i in range(0, wide.shape[1], rows)]
        return pieces if whole == n else [*pieces, array[:, whole:]]

    def apart(self, piece: Array) -> Array:
        """The piece, its stretches one after the other."""
        return piece.reshape(1, -1, self.part[2].stop - self.part[2].start) if self.stretches else piece

    def reduced(self, function: Callable[[Array, int], Array], piece: Array) -> Array:
        reduced = function(piece, self.axis)
        return function(self.apart(reduced), 1) if self.stretches else reduced

    def side_by_side(self, reduced: Array, dtype: Any) -> Array:
        """What was reduced, to be broadcast against any piece: cut to as many columns."""
        reduced = reduced.astype(dtype, copy=False)
        return np.tile(reduced, self.stretches) if self.stretches and reduced.shape[2] > 1 else reduced

    def maximum(self, pieces: Iterable[Array]) -> Array:
        return reduce(np.maximum, (self.reduced(_largest, piece) for piece in pieces))

    def sum(self, exponentials: Iterable[Array]) -> Array:
        return _cascade(np.add, (self.reduced(_sum, e) for e in exponentials))

    def sum_without_largest(self, exponentials: Iterable[Array], rows: Array) -> Array:
        """Of the rows so marked."""
        marked = rows.squeeze(self.axis)
        separated = (
            _without_largest(np.moveaxis(self.apart(e), self.axis, 0)[:, marked].astype(FLOAT64, copy=False))
            for e in exponentials
        )
        return _cascade(_merge, separated)[1]


def _size(x: Array) -> int:
    return _BYTES // x.itemsize


def _blocks(x: Array) -> Iterator[_Block]:
    outer, n, inner = x.shape
    order, axis, stretches = (0, 1, 2), 1, 0
    if n * min(inner, _WIDE // 4) > _size(x):
        step, width, stretches = 1, min(inner, _WIDE), max(1, _WIDE // inner)
    else:
        width = min(inner, _size(x) // n)
        step = max(1, _size(x) // (n * width))
        if inner < _SHORT:
            order, axis = ((2, 1, 0), 1) if n <= _SHORT else ((0, 2, 1), 2)
    for i in range(0, outer, step):
        for j in range(0, inner, width):
            part = slice(i, i + step), slice(None), slice(j, min(j + width, inner))
            yield _Block(part, order, axis, stretches)


class _Room:
    """Two buffers of a block's size, which is all the memory that is used beside the result."""

    def __init__(self, x: Array) -> None:
        self._buffers = np.empty((2, min(_size(x), x.size)), x.dtype)

    def like(self, piece: Array, which: int) -> Array:
        return self._buffers[which, : piece.size].reshape(piece.shape)

    def contiguous(self, pieces: list[Array]) -> list[Array]:
        """A piece over which loops run along what lies side by side: itself, or else a copy."""
        if len(pieces) > 1 or _runs_well(pieces[0]):
            return pieces
        copy = self.like(pieces[0], 0)
        np.copyto(copy, pieces[0])
        return [copy]

    def for_result(self, out: Array) -> Array:
        return out if _runs_well(out) else self.like(out, 0)

    def exponentials(self, pieces: list[Array], shift: Array | None = None) -> Callable[[], Iterable[Array]]:
        """The exponentials, each to be used before the next, as often as asked for; that of a sole piece is kept."""

        def again() -> Iterator[Array]:
            return (_exp(piece, shift, self.like(piece, 1)) for piece in pieces)

        if len(pieces) > 1:
            return again
        kept = list(again())
        return lambda: kept


def _runs_well(piece: Array) -> bool:
    return bool(piece.strides[2] == piece.itemsize)


def _exp(x: Array, shift: Array | None, out: Array) -> Array:
    if shift is None:
        return np.exp(x, out=out)
    np.subtract(x, shift[..., : x.shape[2]], out=out)
    return np.exp(out, out=out)


def _log_sum(block: _Block, n: int, exponentials: Callable[[], Iterable[Array]], m: Array, beside: Any) -> Array:
    """log Σ exp(x − m), to be added to `beside`."""
    if m.dtype is FLOAT64 and block.axis == 2:
        (e,) = exponentials()
        return np.log1p(_without_largest_of_rows(e)[1])
    rest = block.sum(exponentials()) - 1.0
    # where the 1 has cost the rest too much: even in float64, or because what comes out is small
    few = rest < 1e-8 + 6e-9 * n if m.dtype is FLOAT32 else np.abs(np.log1p(rest) + beside) < 0.5
    if few.any():
        rest[few] = block.sum_without_largest(exponentials(), few)
    return np.log1p(rest)


def _all_in_range(m: Array) -> bool:
    return bool(m.min() >= 1 and m.max() <= _IN_RANGE[m.dtype])


def _logsumexp_of_rows(x: Array, value: Array) -> None:
    room = _Room(x)
    for block in _blocks(x):
        pieces = room.contiguous(block.pieces(x))
        m = block.maximum(pieces)
        if _all_in_range(m):
            v = np.log(block.sum(room.exponentials(pieces)()))
        else:
            exponentials = room.exponentials(pieces, block.side_by_side(m, x.dtype))
            v = _log_sum(block, x.shape[1], exponentials, m, m) + m
            np.copyto(v, m, where=np.isinf(m))
        value[block.part] = v.transpose(block.order)


def _softmax_of_rows(x: Array, result: Array) -> None:
    room = _Room(x)
    for block in _blocks(x):
        pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
        m = block.maximum(pieces)
        shift = None
        if not _all_in_range(m):
            m[(m >= 1) & (m <= _IN_RANGE[m.dtype])] = 0
            shift = block.side_by_side(m, x.dtype)
        es = [_exp(piece, shift, room.for_result(out)) for piece, out in zip(pieces, outs, strict=True)]
        if block.axis == 2 and x.dtype is FLOAT64:
            s = sum(_without_largest_of_rows(es[0]))
        else:
            s = block.side_by_side(block.sum(es), x.dtype)
        for e, out in zip(es, outs, strict=True):
            np.divide(e, s[..., : e.shape[2]], out=out)


def _log_softmax_of_rows(x: Array, result: Array) -> None:
    room = _Room(x)
    for block in _blocks(x):
        pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
        m = block.maximum(pieces)
        wide = block.side_by_side(m, x.dtype)
        ds = [
            np.subtract(piece, wide[..., : piece.shape[2]], out=room.for_result(out))
            for piece, out in zip(pieces, outs, strict=True)
        ]
        log_sum = block.side_by_side(_log_sum(block, x.shape[1], room.exponentials(ds), m, 0.0), x.dtype)
        for d, out in zip(ds, outs, strict=True):
            np.subtract(d, log_sum[..., : d.shape[2]], out=out)


# ---------------------------------------------------------------------------------------------------------------------
# The calls


def _as_rows(x: Array, axis: int) -> Array:
    """As (outer, n, inner): a view, if there is one."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


def _logsumexp(x: Array, axis: Any, where: None, b: None, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if axis is None or x.ndim == 1:
        row = x if x.ndim == 1 else x.ravel(order="K")
        value = _logsumexp_of_row(row) if row.nbytes <= _BYTES else _logsumexp_of_array(row, 0)[()]
        return np.full((1,) * x.ndim, value) if keepdims else value
    along = axis % x.ndim
    turned = x.flags.f_contiguous and not x.flags.c_contiguous
    value = _logsumexp_of_array(x.T, x.ndim - 1 - along).T if turned else _logsumexp_of_array(x, along)
    return np.expand_dims(value, along) if keepdims else value


def _logsumexp_of_array(x: Array, axis: int) -> Array:
    rows = _as_rows(x, axis)
    value = np.empty((rows.shape[0], 1, rows.shape[2]), x.dtype)
    with np.errstate(all="ignore"):
        _logsumexp_of_rows(rows, value)
    return value.reshape(x.shape[:axis] + x.shape[axis + 1 :])


def _same_shape(of_row: Callable[[Array], Array], of_rows: Callable[[Array, Array], None]) -> Callable[..., Array]:
    def of_array(x: Array, axis: int) -> Array:
        result = np.empty(x.shape, x.dtype)
        with np.errstate(all="ignore"):
            of_rows(_as_rows(x, axis), _as_rows(result, axis))
        return result

    def call(x: Array, axis: int | None, *_: Any) -> Array:
        if axis is None or x.ndim == 1:
            row = x.reshape(-1)
            return (of_row(row) if row.nbytes <= _BYTES else of_array(row, 0)).reshape(x.shape)
        along = axis % x.ndim
        if x.flags.f_contiguous and not x.flags.c_contiguous:  # what lies in memory in order is the transpose
            return of_array(x.T, x.ndim - 1 - along).T
        return of_array(x, along)

    return call


PATHS = (
    FastPath("logsumexp", "numpy kernel", _logsumexp, guard),
    FastPath("softmax", "numpy kernel", _same_shape(_softmax_of_row, _softmax_of_rows), guard),
    FastPath("log_softmax", "numpy kernel", _same_shape(_log_softmax_of_row, _log_softmax_of_rows), guard),
)
