"""Rows of an array reduced a cache-sized block at a time: what NumPy's logsumexp, softmax and log_softmax run on.

An array is (outer, n, inner), reduced along n. Blocks of short rows are turned, so that loops run across the rows; long
rows are cut into stretches that lie side by side. Where the maxima of a block allow it there is no shift (see
anysoft/_shift.py for why that is better); elsewhere a row is its maximum and the sum of the other exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

Array = Any

FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (FLOAT32, FLOAT64)}
BYTES = 1 << 19  # of a block: it stays in the second-level cache, with its exponentials
_SHORT = 32  # a loop of NumPy's over fewer entries costs more to start than to run
_WIDE = 2048  # and over so many it costs nothing


# ---------------------------------------------------------------------------------------------------------------------
# Sums of arrays: NumPy adds float64 pairwise along a contiguous axis only, and elsewhere one by one


def _largest(x: Array, axis: int) -> Array:
    return np.maximum.reduce(x, axis=axis, keepdims=True)


def sum_along(e: Array, axis: int) -> Array:
    """Sum with keepdims, to a few roundings: float64 sums float32 exactly enough, and itself in halves."""
    if e.dtype == FLOAT32:
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
    """The largest along the first axis, and the sum of the others: beside it they lose roundings. It uses `e` up."""
    rest = np.zeros_like(e)
    while (n := len(e)) > 1:
        half = n // 2
        kept = n - half
        lower, upper = e[:half], e[kept:]
        rest[:half] += rest[kept:]
        rest[:half] += np.minimum(lower, upper)
        np.maximum(lower, upper, out=lower)
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
        return _cascade(np.add, (self.reduced(sum_along, e) for e in exponentials))

    def largest_and_rest(self, exponentials: Iterable[Array], rows: Array) -> tuple[Array, Array]:
        """Of the rows so marked."""
        marked = rows.ravel().nonzero()[0]
        separated = (
            _without_largest(
                np.take(np.moveaxis(self.apart(e), self.axis, 0).reshape(-1, rows.size), marked, axis=1).astype(
                    FLOAT64, copy=False
                )
            )
            for e in exponentials
        )
        largest, rest = _cascade(_merge, separated)
        return largest, rest


def _size(x: Array) -> int:
    return BYTES // int(x.itemsize)


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
    """Buffers of a block's size: 0 is for copies, and for what becomes of them in place, 1 for what is beside that."""

    def __init__(self, x: Array, buffers: int = 1) -> None:
        self._buffers = np.empty((buffers, min(_size(x), x.size)), x.dtype)

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

    def exponentials(
        self, pieces: list[Array], shift: Array | None = None, which: int = 0
    ) -> Callable[[], Iterable[Array]]:
        """The exponentials, each to be used before the next, as often as asked for; that of a sole piece is kept."""

        def again() -> Iterator[Array]:
            return (_exp(piece, shift, self.like(piece, which)) for piece in pieces)

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
    if m.dtype == FLOAT64 and block.axis == 2:
        (e,) = exponentials()
        largest, rest = _without_largest_of_rows(e)
        return np.log1p(rest + (largest - 1.0))  # 0, but for NaN, which counts as the largest
    rest = block.sum(exponentials()) - 1.0
    # where the 1 has cost the rest too much: even in float64, or because what comes out is small
    few = rest < 1e-8 + 6e-9 * n if m.dtype == FLOAT32 else np.abs(np.log1p(rest) + beside) < 0.5
    if few.any():
        rest[few] = block.largest_and_rest(exponentials(), few)[1]
    return np.log1p(rest)


def _all_in_range(m: Array) -> bool:
    return bool(m.min() >= 1 and m.max() <= IN_RANGE[m.dtype])


def logsumexp_of_rows(x: Array, value: Array) -> None:
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


def _careful_sum(block: _Block, es: list[Array], top: Array) -> Array:
    """Σ e to one or two roundings; `top` is the largest exponent of each row."""
    if top.dtype == FLOAT32:
        return block.sum(es)
    if block.axis == 2:
        return np.add(*_without_largest_of_rows(es[0]))
    s = block.sum(es)
    dominated = s < 2 * np.exp(top)  # by an entry beside which the others lose a rounding at each halving
    if dominated.any():
        s[dominated] = np.add(*block.largest_and_rest(es, dominated))
    return s


def softmax_of_rows(x: Array, result: Array) -> None:
    room = _Room(x)
    for block in _blocks(x):
        pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
        m = block.maximum(pieces)
        shift, top = None, m
        if not _all_in_range(m):
            c = np.where((m >= 1) & (m <= IN_RANGE[m.dtype]), x.dtype.type(0), m)
            shift, top = block.side_by_side(c, x.dtype), m - c
        es = [_exp(piece, shift, room.for_result(out)) for piece, out in zip(pieces, outs, strict=True)]
        s = block.side_by_side(_careful_sum(block, es, top), x.dtype)
        for e, out in zip(es, outs, strict=True):
            np.divide(e, s[..., : e.shape[2]], out=out)


def log_softmax_of_rows(x: Array, result: Array) -> None:
    room = _Room(x, 2)
    for block in _blocks(x):
        pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
        m = block.maximum(pieces)
        wide = block.side_by_side(m, x.dtype)
        ds = [
            np.subtract(piece, wide[..., : piece.shape[2]], out=room.for_result(out))
            for piece, out in zip(pieces, outs, strict=True)
        ]
        log_sum = block.side_by_side(_log_sum(block, x.shape[1], room.exponentials(ds, which=1), m, 0.0), x.dtype)
        for d, out in zip(ds, outs, strict=True):
            np.subtract(d, log_sum[..., : d.shape[2]], out=out)
