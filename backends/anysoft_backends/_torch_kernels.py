"""PyTorch kernels for one axis on the CPU: values in place, and derivatives without differences that lose digits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd import Function

Array = Any

LANES = 32  # up to here torch's own sums are accurate enough: beyond, too many terms join each lane
WIDE = (torch.float32, torch.float64)
_SMALL = 1000  # up to here float64 costs less than a kernel of several calls
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(torch.finfo(dtype).max) for dtype in WIDE}
# below it exp(−x) leaves the range
LEAST_EXPONENT = {dtype: -math.log(torch.finfo(dtype).max) for dtype in WIDE}


def _sum(e: Array, axis: int) -> Array:
    """Sum with keepdims that loses no more than a few roundings, whatever the length, the axis and the order.

    torch adds many to a lane, where one large term loses a rounding to each small one. float64 sums float32 exactly
    enough; float64 itself is folded in halves, which rounds log n times.
    """
    if e.dtype is torch.float32:
        return e.sum(axis, keepdim=True, dtype=torch.float64).to(torch.float32)
    while (n := e.shape[axis]) > 32:
        half, odd = divmod(n, 2)
        folded = e.narrow(axis, 0, half) + e.narrow(axis, half, half)
        e = torch.cat([folded, e.narrow(axis, n - 1, 1)], axis) if odd else folded
    return e.sum(axis, keepdim=True)


def logsumexp(x: Array, axis: int, keepdims: bool = True) -> Array:
    """torch.logsumexp on short rows, and log1p of the others where a sum near 1 may have lost its digits."""
    if x.shape[axis] > LANES:
        return _logsumexp_of_long_rows(x, axis, keepdims)
    value = torch.logsumexp(x, axis, keepdim=keepdims)
    if value.numel() == 1 and not -0.5 < value.item() < 0.5:
        return value  # at a tenth of the price of the general question
    near = value.abs() < 0.5
    if near.any():
        rows = x.movedim(axis, -1)[near.movedim(axis, -1)[..., 0] if keepdims else near]
        value.masked_scatter_(near, _logsumexp_near_zero(rows))
    return value


def _logsumexp_near_zero(x: Array) -> Array:
    """Ties of the maximum counted apart: beside a sum of 1 or more, each small term would lose a rounding."""
    m = x.amax(-1, keepdim=True)
    e = torch.sub(x, m).exp_()
    tied = e == 1
    rest = e.masked_fill_(tied, 0.0).sum(-1)
    return rest.add_(tied.sum(-1) - 1).log1p_().add_(m[..., 0])


def _logsumexp_of_long_rows(x: Array, axis: int, keepdims: bool) -> Array:
    m = x.amax(axis, keepdim=True)
    finite = m.isfinite()
    e = torch.sub(x, m if finite.all() else m.where(finite, 0.0)).exp_()
    value = _log_sum(e, axis).add_(m)
    return value if keepdims else value.squeeze(axis)


def _log_sum(e: Array, axis: int) -> Array:
    """log Σ e with keepdims, where the largest of each row is 1, as log1p of the sum of the others; `e` is used up."""
    e.scatter_(axis, e.argmax(axis, keepdim=True), 0.0)
    return _sum(e, axis).log1p_()


def softmax(x: Array, axis: int) -> Array:
    if x.dtype is torch.float32 and x.numel() <= _SMALL:
        return torch.softmax(x.double(), axis).float()
    m = x.amax(axis, keepdim=True)
    m.masked_fill_((m >= 1) & (m <= _IN_RANGE[x.dtype]), 0)
    e = torch.sub(x, m).exp_()
    if e.dtype is torch.float32:
        return e.div_(_sum(e, axis))
    place = e.argmax(axis, keepdim=True)
    largest = e.gather(axis, place)
    s = _sum(e.scatter_(axis, place, 0.0), axis).add_(largest)
    return e.div_(s).scatter_(axis, place, largest.div_(s))


def sums(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """The maximum, exp of it and the sum of the other exponentials, shifted as by anysoft/_shift.py; with keepdims."""
    m = x.amax(axis, keepdim=True)
    shift = m.masked_fill(((m >= 1) & (m <= _IN_RANGE[x.dtype])) | ~m.isfinite(), 0)
    e = torch.sub(x, shift).exp_()
    place = e.argmax(axis, keepdim=True)
    largest = e.gather(axis, place)
    return m, largest, _sum(e.scatter_(axis, place, 0.0), axis)


def log_softmax(x: Array, axis: int) -> Array:
    m = x.amax(axis, keepdim=True)
    result = torch.sub(x, m)
    log_s = _log_sum(result.exp(), axis)
    return result.sub_(log_s.add_(m - m))  # NaN for the whole of a row whose maximum is infinite


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives, as formulas of the results, so that they have derivatives themselves. The entry that holds most of a row
# is treated apart: for it, 1 − p is the sum of the others.


def apply(function: Any, x: Array, axis: int) -> Array:
    """A function with its written derivative (`Function.apply` has no types)."""
    return function.apply(x, axis)


class Softmax(Function):
    """v = p (g − Σ p g)."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        p = softmax(x, axis)
        ctx.axis = axis
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (p,), axis = ctx.saved_tensors, ctx.axis
        place = p.argmax(axis, keepdim=True)
        others = p.scatter(axis, place, 0.0)
        q, s = _sum(others, axis), _sum(others * g, axis)
        p_top, g_top = p.gather(axis, place), g.gather(axis, place)
        v = p * (g - (s + p_top * g_top))
        return v.scatter(axis, place, p_top * (g_top * q - s)), None


class LogSoftmax(Function):
    """v = g − p Σ g. Not with p = exp(log p): where log p is −11, its rounding alone is 4 ulp of p."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        ctx.axis = axis
        ctx.save_for_backward(x)
        return log_softmax(x, axis)

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x,), axis = ctx.saved_tensors, ctx.axis
        p = apply(Softmax, x, axis)
        place = p.argmax(axis, keepdim=True)
        q = _sum(p.scatter(axis, place, 0.0), axis)
        g_others = _sum(g.scatter(axis, place, 0.0), axis)
        p_top, g_top = p.gather(axis, place), g.gather(axis, place)
        v = g - p * (g_others + g_top)
        return v.scatter(axis, place, g_top * q - p_top * g_others), None


class LogSumExp(Function):
    """v = p g: 0 on dead rows, and shared by the +inf of a row that has any. With keepdims."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        value = logsumexp(x, axis)
        ctx.axis = axis
        ctx.save_for_backward(x, value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (x, value), axis = ctx.saved_tensors, ctx.axis
        infinite = value.isinf()
        if not infinite.any():
            return apply(Softmax, x, axis) * g, None
        p = apply(Softmax, torch.where(infinite, 0.0, x), axis)
        highest = (x == math.inf).to(x.dtype)
        share = highest / highest.sum(axis, keepdim=True).clamp(min=1)
        return torch.where(infinite, share, p) * g, None
