"""PyTorch kernels for one axis on the CPU: values in place, and derivatives without differences that lose digits.

They go through the rows by blocks that stay in a core's cache. The entry that holds more than half of a row is treated
apart: 1 − p would lose all digits of the others, and so it is never computed, but −(sum of the others)/(sum of all).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd import Function

Array = Any

LANES = 32  # up to here torch's own sums are accurate enough: beyond, too many terms join each lane
WIDE = (torch.float32, torch.float64)
_SMALL = 1000  # up to here float64 costs less than a kernel of several calls
_BLOCK = 1 << 19  # bytes of a block, for each thread: it and two more such are in a core's cache
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(torch.finfo(dtype).max) for dtype in WIDE}
# below it exp(−x) leaves the range
LEAST_EXPONENT = {dtype: -math.log(torch.finfo(dtype).max) for dtype in WIDE}

Places = tuple[Array, ...]  # of some entries, as indices of what `_as_rows` gives


def _as_rows(axis: int, *arrays: Array) -> list[Array]:
    """The arrays with the axis as the last, of two axes if the first of them can be seen so; it and others of its own
    layout can be written to."""
    if arrays[0].ndim == 1 or (axis in (-1, arrays[0].ndim - 1) and arrays[0].is_contiguous()):
        return [a.reshape(-1, a.shape[-1]) for a in arrays]
    return [a.movedim(axis, -1) for a in arrays]


def _blocks(axis: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """`_as_rows`, some at a time."""
    first = arrays[0]
    rows = _as_rows(axis, *arrays)
    size = _BLOCK * torch.get_num_threads() // first.itemsize
    if first.numel() <= size or rows[0].ndim != 2 or not rows[0].is_contiguous():
        yield tuple(rows)
    else:
        yield from zip(*(a.split(max(size // first.shape[-1], 1)) for a in rows), strict=True)


def _for_each_row(x: Array, axis: int) -> Array:
    shape = list(x.shape)
    shape[axis] = 1
    return x.new_empty(shape)


def _sum(e: Array) -> Array:
    """Sum of rows, in float64, that loses no more than a few roundings, whatever their length and order.

    torch adds many to a lane, where one large term loses a rounding to each small one. float64 sums float32 exactly
    enough; float64 itself is folded in halves, which rounds log n times.
    """
    if e.dtype is torch.float32:
        return e.sum(-1, keepdim=True, dtype=torch.float64)
    while (n := e.shape[-1]) > LANES:
        half, odd = divmod(n, 2)
        folded = e[..., :half] + e[..., half : 2 * half]
        e = torch.cat([folded, e[..., n - 1 :]], -1) if odd else folded
    return e.sum(-1, keepdim=True)


def _folded_sum(g: Array) -> Array:
    """`_sum` of rows, after their eighths are added up: with one rounding to spare, in half of the time."""
    n = g.shape[-1]
    if n <= LANES:
        return _sum(g).to(g.dtype)
    whole = n - n % 8
    s = _sum(g[..., :whole].unflatten(-1, (8, -1)).sum(-2))
    return (s + g[..., whole:].sum(-1, keepdim=True)).to(g.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Values


class _Top(NamedTuple):
    """The dominant entries, and the sums of all others of their rows."""

    places: Places
    largest: Array
    rest: Array


class _Sums(NamedTuple):
    """What is known of rows of exp(x − shift), in float64."""

    shift: Array | None
    sum: Array
    top: _Top | None

    def log(self) -> Array:
        excess = self.sum - 1.0
        if self.top is not None:
            excess[self.top.places[:-1]] = (self.top.rest + (self.top.largest - 1.0))[:, None]
        return excess.log1p_()

    def logsumexp(self) -> Array:
        return self.log() if self.shift is None else self.log().add_(self.shift)

    def reciprocal(self, x: Array) -> Array:
        """Of the sum, as what `x` is multiplied with; NaN for a row with +inf."""
        return _defined(self.sum).reciprocal_().to(x.dtype)


def _defined(s: Array) -> Array:
    """NaN instead of an infinite number."""
    return s + (s - s)


def _exponentials(x: Array, e: Array, apart: bool = True) -> _Sums:
    """Write exp(x − shift) of rows to `e`. Only with `apart` are dominant entries looked for."""
    m = x.amax(-1, keepdim=True)
    shift = _shift(m)
    if shift is None:
        torch.exp(x, out=e)
    else:
        torch.sub(x, shift, out=e).exp_()
        m -= shift
    s = _sum(e)
    if not (apart and (dominant := m.exp_() > 0.5 * s).any()):
        return _Sums(shift, s, None)
    which = dominant[..., 0].nonzero(as_tuple=True)
    rows = e[which]
    places = torch.from_numpy(rows.numpy().argmax(-1, keepdims=True))  # ten times as fast as torch's
    largest = rows.gather(-1, places).double()
    rest = _sum(rows.scatter_(-1, places, 0.0))
    s[which] = rest + largest
    return _Sums(shift, s, _Top((*which, places[:, 0]), largest[:, 0], rest[:, 0]))


def _shift(m: Array) -> Array | None:
    """What rows with these maxima are to be shifted by; None is nothing."""
    low, high = (each.item() for each in m.aminmax())
    if low >= 1 and high <= _IN_RANGE[m.dtype]:
        return None
    return m.masked_fill(((m >= 1) & (m <= _IN_RANGE[m.dtype])) | m.isinf(), 0.0)


def logsumexp(x: Array, axis: int, keepdims: bool = True) -> Array:
    """torch.logsumexp on short rows, and log1p of the others where a sum near 1 may have lost its digits."""
    if x.shape[axis] > LANES:
        if x.numel() <= _SMALL:
            m = x.amax(axis, keepdim=True)
            e = torch.sub(x, m.masked_fill(m.isinf(), 0.0)).exp_()
            value = _log_sum_of_few(e, axis).add_(m).to(x.dtype)
            return value if keepdims else value.squeeze(axis)
        value = _for_each_row(x, axis)
        for rows, out in _blocks(axis, x, value):
            _logsumexp(rows, out)
        return value if keepdims else value.squeeze(axis)
    value = torch.logsumexp(x, axis, keepdim=keepdims)
    if value.numel() == 1 and not -0.5 < value.item() < 0.5:
        return value  # at a tenth of the price of the general question
    near = value.abs() < 0.5
    if near.any():
        rows = x.movedim(axis, -1)[near.movedim(axis, -1)[..., 0] if keepdims else near]
        value.masked_scatter_(near, _logsumexp_near_zero(rows))
    return value


def _logsumexp(x: Array, out: Array) -> _Sums:
    sums = _exponentials(x, torch.empty_like(x))
    out.copy_(sums.logsumexp())
    if x.dtype is torch.float64:  # or else the sum itself is exact enough
        near = out.abs() < 0.5
        if near.any():
            out.masked_scatter_(near, _logsumexp_near_zero(x[near[..., 0]]))
    return sums


def _logsumexp_near_zero(x: Array) -> Array:
    """Ties of the maximum counted apart: beside a sum of 1 or more, each small term would lose a rounding."""
    m = x.amax(-1, keepdim=True)
    e = torch.sub(x, m).exp_()
    tied = e == 1
    rest = _sum(e.masked_fill_(tied, 0.0))
    return rest.add_(tied.sum(-1, keepdim=True) - 1).log1p_().add_(m)[..., 0].to(x.dtype)


def _log_sum_of_few(e: Array, axis: int) -> Array:
    """log Σ e with keepdims, where the largest of each row is 1, in few calls; `e` is used up."""
    e.scatter_(axis, e.argmax(axis, keepdim=True), 0.0)
    return _sum(e.movedim(axis, -1)).movedim(-1, axis).log1p_()


def softmax(x: Array, axis: int) -> Array:
    if x.dtype is torch.float32 and x.numel() <= _SMALL:
        return torch.softmax(x.double(), axis).float()
    p = torch.empty_like(x)
    for e, rows in _blocks(axis, p, x):
        e.mul_(_exponentials(rows, e, apart=x.dtype is torch.float64).reciprocal(e))
    return p


def sums(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """The maximum, exp of it and the sum of the other exponentials, shifted as by anysoft/_shift.py; with keepdims."""
    m = x.amax(axis, keepdim=True)
    shift = m.masked_fill(((m >= 1) & (m <= _IN_RANGE[x.dtype])) | ~m.isfinite(), 0)
    e = torch.sub(x, shift).exp_()
    place = e.argmax(axis, keepdim=True)
    largest = e.gather(axis, place)
    rest = _sum(e.scatter_(axis, place, 0.0).movedim(axis, -1)).movedim(-1, axis)
    return m, largest, rest.to(x.dtype)


def log_softmax(x: Array, axis: int) -> Array:
    if x.numel() <= _SMALL:
        m = x.amax(axis, keepdim=True)
        shifted = torch.sub(x, m)
        return shifted.sub_(_log_sum_of_few(shifted.exp(), axis).to(x.dtype).add_(m - m))  # NaN for a row with +inf
    result = torch.empty_like(x)
    for out, rows in _blocks(axis, result, x):
        _log_softmax(rows, out, torch.empty_like(out))
    return result


def _log_softmax(x: Array, out: Array, e: Array) -> _Sums:
    sums = _exponentials(x, e)
    if sums.shift is None:
        torch.sub(x, sums.log().to(x.dtype), out=out)
    else:
        torch.sub(x, sums.shift, out=out).sub_(_defined(sums.log()).to(x.dtype))
    if sums.top is not None:
        out[sums.top.places] = (sums.top.rest / sums.top.largest).log1p_().neg_().to(out.dtype)
    return sums


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives. Each stands here twice: as a formula that can be differentiated and batched, and by blocks in place.


def apply(function: Any, *arguments: Any) -> Any:
    """A function with its written derivative (`Function.apply` has no types)."""
    return function.apply(*arguments)


_is_batched = torch._C._functorch.is_legacy_batchedtensor  # by torch.autograd.grad(is_grads_batched=True)


def _in_place(*arrays: Array) -> bool:
    return arrays[0].is_cpu and differentiates_no_more(*arrays)


def differentiates_no_more(*arrays: Array) -> bool:
    """Whether nothing will differentiate or batch a derivative."""
    return (
        not torch.is_grad_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(a.__class__ is torch.Tensor or a.__class__ is torch.nn.Parameter for a in arrays)
        and not any(map(_is_batched, arrays))
    )


class Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        p = softmax(x, axis)
        ctx.axis = axis
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (p,), axis = ctx.saved_tensors, ctx.axis
        if not _in_place(p, g):
            return _softmax_derivative(p, g, axis), None
        v = torch.empty_like(p)
        for out, of_p, of_g in _blocks(axis, v, p, g):
            _write_softmax_derivative(of_p, of_g, out)
        return v, None


def _softmax_derivative(p: Array, g: Array, axis: int) -> Array:
    """v = p Σ t − t with t = p (r − g), for any r: in rows with a dominant entry its g, so that its own t is 0."""
    top, place = p.max(axis, keepdim=True)
    t = p * (torch.where(top > 0.5, g.gather(axis, place), 0.0) - g)
    return p * _sum(t.movedim(axis, -1)).movedim(-1, axis).to(p.dtype) - t


def _write_softmax_derivative(p: Array, g: Array, v: Array) -> None:
    s = _sum(torch.mul(p, g, out=v)).to(p.dtype)
    torch.sub(g, s, out=v).mul_(p)
    dominant = p.amax(-1) > 0.5
    if dominant.any():
        v[dominant] = _softmax_derivative(p[dominant], g[dominant], -1)


class LogSoftmax(Function):
    """Gives p too, which nobody sees: saved as a result, it has a derivative itself.

    In its place stands p − 1 at a dominant entry: −q, where q is the sum of the others, and has their digits.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> tuple[Array, Array]:
        result, p = torch.empty_like(x), torch.empty_like(x)
        places: list[Places] = []
        start = 0
        for e, out, rows in _blocks(axis, p, result, x):
            sums = _log_softmax(rows, out, e)
            e.mul_(sums.reciprocal(e))
            if sums.top is not None:
                first, *others = sums.top.places
                places.append((first + start, *others))
                e[sums.top.places] = (-sums.top.rest / (sums.top.rest + sums.top.largest)).to(e.dtype)
            start += e.shape[0]
        ctx.axis = axis
        ctx.places = tuple(map(torch.cat, zip(*places, strict=True)))
        ctx.save_for_backward(p)
        ctx.set_materialize_grads(False)
        return result, p

    @staticmethod
    def backward(ctx: Any, g: Array | None, of_p: Array | None) -> tuple[Any, None]:
        """v = g − p Σ g, which at a dominant entry is q Σ g − (the sum of the other g)."""
        (p,), axis = ctx.saved_tensors, ctx.axis
        if g is not None and of_p is None and _in_place(p, g):
            whole = _folded_sum(g.movedim(axis, -1)).movedim(-1, axis)
            result = torch.addcmul(g, p, whole, value=-1.0, out=torch.empty_like(p))
            if ctx.places:
                out, all_p, all_g = _as_rows(axis, result, p, g)
                _write_at_dominant(all_p, all_g, out, ctx.places)
            return result, None
        v = None if g is None else _log_softmax_derivative(p, g, axis)
        if of_p is not None:
            v = _plus(v, _softmax_derivative(torch.where(p.signbit(), 1.0 + p, p), of_p, axis))
        return v, None


def _log_softmax_derivative(p: Array, g: Array, axis: int) -> Array:
    dominant = p.signbit()
    others = _sum(torch.where(dominant, 0.0, g).movedim(axis, -1)).movedim(-1, axis).to(p.dtype)
    whole = others + torch.where(dominant, g, 0.0).sum(axis, keepdim=True)
    return torch.where(dominant, -others, g) - p * whole


def _write_at_dominant(p: Array, g: Array, v: Array, places: Places) -> None:
    *rows, place = places
    others = g[tuple(rows)]
    most = others.gather(-1, place[..., None])
    others = others.scatter_(-1, place[..., None], 0.0).sum(-1, keepdim=True)
    v[places] = (-others - p[places][..., None] * (others + most))[..., 0]


def _plus(v: Array | None, more: Array) -> Array:
    return more if v is None else v + more


class LogSumExp(Function):
    """v = p g: 0 on dead rows, and shared by the +inf of a row that has any. With keepdims.

    It saves the sums of exp(x − shift), which take no more than the result, and give p without another sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        ctx.axis, ctx.shifted, ctx.short = axis, False, x.shape[axis] <= LANES
        if ctx.short:
            value = logsumexp(x, axis)
            ctx.save_for_backward(x, value)
            return value
        value, s = _for_each_row(x, axis), _for_each_row(x, axis)
        for rows, out, out_s in _blocks(axis, x, value, s):
            sums = _logsumexp(rows, out)
            ctx.shifted |= sums.shift is not None
            out_s.copy_(sums.sum)
        ctx.save_for_backward(x, s)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, s), axis = ctx.saved_tensors, ctx.axis
        special = s.isinf() if ctx.short else (s == 0) | s.isinf()
        factor = g / s
        if ctx.short:
            if not special.any():
                return apply(Softmax, x, axis) * g, None
        elif _in_place(x, g) and not special.any() and _is_normal(factor, g):
            shift = _shift(x.amax(axis, keepdim=True)) if ctx.shifted else None
            e = x.exp() if shift is None else torch.sub(x, shift).exp_()
            return e.mul_(factor), None
        return derivative_of_logsumexp(x, special, g, axis, Softmax), None


def derivative_of_logsumexp(x: Array, special: Array, g: Array, axis: int, softmax: Any) -> Array:
    """Which can be differentiated; `special` are the rows whose result is infinite."""
    p = apply(softmax, torch.where(special, 0.0, x), axis)
    highest = (x == math.inf).to(x.dtype)
    share = highest / highest.sum(axis, keepdim=True).clamp(min=1)
    return torch.where(special, share, p) * g


def _is_normal(factor: Array, g: Array) -> bool:
    """Whether the factors have all digits, or are 0 because `g` is."""
    return bool(((factor.abs() >= torch.finfo(factor.dtype).tiny) | (g == 0)).all())
