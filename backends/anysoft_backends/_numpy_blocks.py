"""Rows of an array reduced a cache-sized block at a time: what NumPy's logsumexp, softmax and log_softmax run on.

An array is (outer, n, inner), reduced along n. Blocks of short rows are turned, so that loops run across the rows; long
rows are cut into stretches that lie side by side.

Each block is tried plainly: exp(x) without a shift, which is also more accurate (see anysoft/_shift.py), and sums in
which float32 rounds three times. Rows whose sum says that this loses digits, and blocks out of range, are done again:
there a row is its maximum and the sum of the other exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from anysoft import registry
from anysoft_backends._numpy_workers import share

Array = Any

FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
IN_RANGE = {dtype: 0.45 * math.log(float(np.finfo(dtype).max)) for dtype in (FLOAT32, FLOAT64)}
BYTES = 1 << 19  # of a block: it stays in the second-level cache, with its exponentials
_SHORT = 32  # a loop of NumPy's over fewer entries costs more to start than to run
_WIDE = 2048  # and over so many it costs nothing
_LONG = 512  # entries of a row from which on NumPy's buffers cost more than its loops
_WORTH = 1 << 15  # entries below which nothing is gained by fewer operations


# ---------------------------------------------------------------------------------------------------------------------
# Sums of arrays: NumPy adds float64 pairwise along a contiguous axis only, and elsewhere one by one


def _largest(x: Array, axis: int) -> Array:
    return np.maximum.reduce(x, axis=axis, keepdims=True)


def sum_along(e: Array, axis: int) -> Array:
    """Sum with keepdims, to a few roundings: float64 sums float32 exactly enough, and itself in halves."""
    if e.dtype == FLOAT32:
        return np.add.reduce(e, axis=axis, keepdims=True, dtype=FLOAT64)
    rows = e.swapaxes(axis, 0)
    n = len(rows)
    while n > 4:
        half, odd = divmod(n, 2)
        folded = np.add(rows[:half], rows[half : 2 * half])
        if odd:
            folded[0] += rows[n - 1]
        rows, n = folded, half
    return np.add.reduce(rows, axis=0, keepdims=True).swapaxes(axis, 0)


def _quick_sum(e: Array, axis: int, room: Array | None = None) -> Array:
    """Sum with keepdims; of float32 first halves are added up, twice in `room`, or else thrice in `e` itself.

    NumPy's sums of float32 in float64 take three times as long, and those in float32 lose with the length.
    """
    n = e.shape[axis]
    if e.dtype == FLOAT64 or n < 8 or (axis == 2 and n < _LONG) or e.size < _WORTH:
        return sum_along(e, axis)
    folded = e.swapaxes(axis, 0)
    if room is not None:
        half, n = n // 2, n - n // 2
        shape = (*e.shape[:axis], n, *e.shape[axis + 1 :])
        whole, folded = folded, room[: math.prod(shape)].reshape(shape).swapaxes(axis, 0)
        np.add(whole[:half], whole[n:], out=folded[:half])
        if n > half:
            folded[half] = whole[half]
    for _ in range(3 if room is None else 1):
        half, n = n // 2, n - n // 2
        np.add(folded[:half], folded[n:], out=folded[:half])
        folded = folded[:n]
    return np.add.reduce(folded, axis=0, keepdims=True, dtype=FLOAT64).swapaxes(axis, 0)


def _merge(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of two sets of terms, each as its largest and the sum of the others, the same."""
    return np.maximum(one[0], other[0]), one[1] + other[1] + np.minimum(one[0], other[0])


def _without_largest(e: Array) -> tuple[Array, Array]:
    """The largest along the first axis, and the sum of the others: beside it they lose roundings. It uses `e` up."""
    n = len(e)
    rest = np.zeros_like(e[: n - n // 2])
    while n > 1:
        half, kept = n // 2, n - n // 2
        lower, upper, sums = e[:half], e[kept:n], rest[:half]
        if n < len(e):
            np.add(sums, rest[kept:n], out=sums)
        np.add(sums, np.minimum(lower, upper), out=sums)
        np.maximum(lower, upper, out=lower)
        n = kept
    return e[0], rest[0]


def rest_exactly(e: Array) -> tuple[Array, Array]:
    """`_without_largest` as if the others were added without rounding: what each sum loses is kept. It uses `e` up.

    Near 0 a logarithm of the sum can afford no more than one rounding.
    """
    largest = np.maximum.reduce(e, axis=0)
    n = len(e)
    lost = np.zeros_like(e[: n - n // 2])
    while n > 1:
        half, kept = n // 2, n - n // 2
        a, b = e[:half], e[kept:n]
        s = np.add(a, b)
        added = s - a
        error = (a - (s - added)) + (b - added)
        if n < len(e):
            error += lost[kept:n]
        lost[:half] += error
        a[...] = s
        n = kept
    return largest, (e[0] - largest) + lost[0]


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
            rest_exactly(
                np.take(np.moveaxis(self.apart(e), self.axis, 0).reshape(-1, rows.size), marked, axis=1).astype(
                    FLOAT64, copy=False
                )
            )
            for e in exponentials
        )
        largest, rest = _cascade(_merge, separated)
        return largest, rest

    def quick_sum(self, e: Array, room: Array | None = None) -> Array:
        s = _quick_sum(e, self.axis, room)
        return sum_along(self.apart(s), 1) if self.stretches else s


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


def _buffer_size(x: Array, block: _Block) -> int:
    """Of NumPy's own buffers: where a loop is shorter, it copies what need not be copied (three times as slow)."""
    loop: int = block.pieces(x)[0].shape[2]
    if block.axis == 2 and loop < _LONG and x.dtype == FLOAT32:
        return 8192  # which sums in float64 need
    return min(max(loop // 32 * 16, 128), 8192)


class _Room:
    """Buffers of a block's size: 0 is for copies, and for what becomes of them in place, 1 for what is beside that."""

    def __init__(self, x: Array) -> None:
        self._buffers = np.empty((2, min(_size(x), x.size)), x.dtype)
        self.plain = self.quick = True  # to be tried as long as they succeed

    def like(self, piece: Array, which: int) -> Array:
        return self.buffer(which)[: piece.size].reshape(piece.shape)

    def buffer(self, which: int) -> Array:
        return self._buffers[which]

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


def _write(done: Array, out: Array) -> None:
    """What was computed where loops run well, to where it belongs: NumPy is slow at both at once."""
    if done is not out:
        np.copyto(out, done)


def _log_sum(block: _Block, n: int, exponentials: Callable[[], Iterable[Array]], m: Array, beside: Any) -> Array:
    """log Σ exp(x − m), to be added to `beside`."""
    double, sole = m.dtype == FLOAT64, not block.stretches
    if double and sole and block.axis == 1 and n <= _SHORT:
        (e,) = exponentials()
        return np.log1p(rest_exactly(e.swapaxes(0, 1).copy())[1][:, None])
    if double and sole and block.axis == 2:
        (e,) = exponentials()
        largest, rest = _without_largest_of_rows(e)
        rest += largest - 1.0  # 0, but for NaN, which counts as the largest
    else:
        rest = block.sum(exponentials()) - 1.0
    # where the 1 has cost the rest too much: even in float64, or because what comes out is small
    few = np.abs(np.log1p(rest) + beside) < 1 if double else rest < 1e-8 + 6e-9 * n
    if few.any():
        rest[few] = block.largest_and_rest(exponentials(), few)[1]
    return np.log1p(rest)


def _careful_sum(block: _Block, es: list[Array], top: Array) -> Array:
    """Σ e to one or two roundings; `top` is the largest exponent of each row."""
    if top.dtype == FLOAT32:
        return block.sum(es)
    if block.axis == 2:
        return np.add(*_without_largest_of_rows(es[0]))
    if not block.stretches and es[0].shape[1] <= _SHORT:
        return np.add(*_without_largest(es[0].swapaxes(0, 1).copy()))[:, None]
    s = block.sum(es)
    dominated = s < 2 * np.exp(top)  # by an entry beside which the others lose a rounding at each halving
    if dominated.any():
        s[dominated] = np.add(*block.largest_and_rest(es, dominated))
    return s


# ---------------------------------------------------------------------------------------------------------------------
# The functions, of a block of rows: plainly where that does, which they say of each row, or else with care

_Plain = Callable[[Array, Array, _Block, list[_Room]], Array | None]  # rows to be done again; None is all of them
_Careful = Callable[[Array, Array, _Block, _Room], None]


def _plain_exp(x: Array, out: Array, least: float = -math.inf) -> Array | None:
    """exp(x), if none leaves the range; what is below `least` is not worth it."""
    return np.exp(x, out=out) if least <= np.maximum.reduce(x, axis=None) <= IN_RANGE[x.dtype] else None


def _plain_logsumexp(x: Array, value: Array, block: _Block, rooms: list[_Room]) -> Array | None:
    pieces = rooms[0].contiguous(block.pieces(x))
    least = -math.inf if block.stretches else 1 - math.log(x.shape[1])

    def sum_of(piece: Array, room: _Room) -> Array | None:
        e = _plain_exp(piece, room.like(piece, 0), least)
        return None if e is None else block.quick_sum(e)

    s = _sum_of_all(share(sum_of, pieces, rooms))
    if s is None:
        return None
    value[block.part] = np.log(s).transpose(block.order)
    return np.less(s, math.e)  # a result below 1 needs log1p, or at least the shift


def _plain_softmax(x: Array, result: Array, block: _Block, rooms: list[_Room]) -> Array | None:
    if x.dtype == FLOAT64:
        return None  # below 1 the maximum is the better shift, and what dominates is found by it
    outs = block.pieces(result)

    def exponentiate(pair: tuple[Array, Array], room: _Room) -> tuple[Array, Array | None]:
        e = _plain_exp(pair[0], room.for_result(pair[1]))
        return pair[1] if e is None else e, None if e is None else block.quick_sum(e, room.buffer(1))

    es, sums = zip(
        *share(exponentiate, [*zip(rooms[0].contiguous(block.pieces(x)), outs, strict=True)], rooms), strict=True
    )
    s = _sum_of_all(sums)
    if s is None:
        return None
    wide = block.side_by_side(s, FLOAT32)

    def divide(pair: tuple[Array, Array], room: _Room) -> None:
        e, out = pair
        _write(np.divide(e, wide[..., : e.shape[2]], out=e), out)

    share(divide, [*zip(es, outs, strict=True)], rooms)
    return np.less(s, 1)  # exponentials may have lost digits below the range


def _sum_of_all(sums: Sequence[Any]) -> Any:
    return None if any(s is None for s in sums) else _cascade(np.add, sums)


def _careful_logsumexp(x: Array, value: Array, block: _Block, room: _Room) -> None:
    pieces = room.contiguous(block.pieces(x))
    m = block.maximum(pieces)
    if bool(m.min() >= 1 and m.max() <= IN_RANGE[m.dtype]):
        v = np.log(block.sum(room.exponentials(pieces)()))
    else:
        exponentials = room.exponentials(pieces, block.side_by_side(m, x.dtype))
        v = _log_sum(block, x.shape[1], exponentials, m, m) + m
        np.copyto(v, m, where=np.isinf(m))
    value[block.part] = v.transpose(block.order)


def _careful_softmax(x: Array, result: Array, block: _Block, room: _Room) -> None:
    pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
    m = block.maximum(pieces)
    c = np.where((m >= 1) & (m <= IN_RANGE[m.dtype]), x.dtype.type(0), m)
    shift = block.side_by_side(c, x.dtype) if c.any() else None
    es = [_exp(piece, shift, room.for_result(out)) for piece, out in zip(pieces, outs, strict=True)]
    s = block.side_by_side(_careful_sum(block, es, m - c), x.dtype)
    for e, out in zip(es, outs, strict=True):
        _write(np.divide(e, s[..., : e.shape[2]], out=e), out)


def _quick_log_sum(block: _Block, es: list[Array], room: _Room) -> Array | None:
    """log Σ e of float32 whose largest is 1, where most sums are so large that their roundings do not matter."""
    rest = block.quick_sum(es[0], room.buffer(0)) - 1.0
    small = np.less(rest, 6.4)  # a result above −2 cannot afford them
    count = np.count_nonzero(small)
    if count > 0.2 * small.size:
        return None
    if count:
        rest[small] = block.largest_and_rest(es, small)[1]
    return np.log1p(rest)


def _careful_log_softmax(x: Array, result: Array, block: _Block, room: _Room) -> None:
    pieces, outs = room.contiguous(block.pieces(x)), block.pieces(result)
    m = block.maximum(pieces)
    wide = block.side_by_side(m, x.dtype)
    ds = [
        np.subtract(piece, wide[..., : piece.shape[2]], out=room.for_result(out))
        for piece, out in zip(pieces, outs, strict=True)
    ]
    exponentials, v = room.exponentials(ds, which=1), None
    quick = room.quick and x.dtype == FLOAT32 and x.shape[1] >= _LONG
    if quick and len(ds) == 1 and ds[0] is outs[0]:  # or the room for sums is taken
        v = _quick_log_sum(block, [*exponentials()], room)
        room.quick = v is not None
    if v is None:
        v = _log_sum(block, x.shape[1], exponentials, m, 0.0)
    log_sum = block.side_by_side(v, x.dtype)
    for d, out in zip(ds, outs, strict=True):
        _write(np.subtract(d, log_sum[..., : d.shape[2]], out=d), out)


def _no_plain(*_: Any) -> None:
    """Of log_softmax: results near 0 need the shift and log1p, and in most rows there is one."""


def _of_rows(plain: _Plain, careful: _Careful) -> Callable[[Array, Array], None]:
    """A function that writes what it makes of `x` to `result`, block by block: each thread takes some of the blocks, or
    where there are not enough of them, some of each block's pieces."""

    def work(x: Array, result: Array, block: _Block, rooms: list[_Room]) -> None:
        room = rooms[0]
        if room.plain:
            failed = plain(x, result, block, rooms)
            if failed is not None:
                failed = failed.transpose(block.order)[:, 0]
                count = np.count_nonzero(failed)
                if count < 0.2 * failed.size:
                    if count:
                        again(x[block.part], result[block.part], failed)
                    return
            room.plain = False  # nor will the next be
        careful(x, result, block, room)

    def again(x: Array, result: Array, which: Array) -> None:
        rows = np.moveaxis(x, 1, 2)[which][..., None]
        redone = np.empty((len(rows), result.shape[1], 1), x.dtype)
        for block in _blocks(rows):
            careful(rows, redone, block, _Room(rows))
        np.moveaxis(result, 1, 2)[which] = redone[..., 0]

    def of_rows(x: Array, result: Array) -> None:
        blocks = list(_blocks(x))
        # threads cost more than they bring where each has not a block to do
        rooms = [_Room(x) for _ in range(max(1, min(registry.workers(), x.nbytes // BYTES)))]
        with np.errstate(all="ignore"):
            if x.size > _WORTH:
                np.setbufsize(_buffer_size(x, blocks[0]))  # until errstate ends
            if len(blocks) < len(rooms):
                for block in blocks:
                    work(x, result, block, rooms)
            else:
                share(lambda block, room: work(x, result, block, [room]), blocks, rooms)

    return of_rows


logsumexp_of_rows = _of_rows(_plain_logsumexp, _careful_logsumexp)
softmax_of_rows = _of_rows(_plain_softmax, _careful_softmax)
log_softmax_of_rows = _of_rows(_no_plain, _careful_log_softmax)
