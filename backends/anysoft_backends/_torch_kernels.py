"""PyTorch kernels for one axis on the CPU: values in place, and derivatives without differences that lose digits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd import Function

Array = Any

WIDE = (torch.float32, torch.float64)
_BLOCK = 16
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(torch.finfo(dtype).max) for dtype in WIDE}


def _sum(e: Array, axis: int) -> Array:
    """Sum with keepdims, in blocks: torch adds nearly one by one along a strided axis, and loses 8 roundings at 10⁷."""
    n = e.shape[axis]
    if n <= 2 * _BLOCK or (n <= 2**20 and e.stride(axis) == 1):
        return e.sum(axis, keepdim=True)
    blocks, rest = divmod(n, _BLOCK)
    sums = e.narrow(axis, 0, n - rest).unflatten(axis, (blocks, _BLOCK)).sum(axis % e.ndim + 1)
    if rest:
        sums = torch.cat([sums, e.narrow(axis, n - rest, rest).sum(axis, keepdim=True)], axis)
    return _sum(sums, axis)


def logsumexp(x: Array, axis: int, keepdims: bool = True) -> Array:
    """torch.logsumexp, and again by log1p in the rows that |result| < ½ marks as perhaps wrong.

    There the logarithm of a sum near 1 may have lost its digits.
    """
    value = torch.logsumexp(x, axis, keepdim=keepdims)
    if value.numel() == 1 and not -0.5 < value.item() < 0.5:
        return value  # at a tenth of the price of the general question
    near = value.abs() < 0.5
    if near.any():
        rows = x.movedim(axis, -1)[near.movedim(axis, -1)[..., 0] if keepdims else near]
        m, place = rows.max(-1, keepdim=True)
        others = torch.sub(rows, m).exp_().scatter_(-1, place, 0.0)
        value.masked_scatter_(near, _sum(others, -1).log1p_().add_(m))
    return value


def softmax(x: Array, axis: int) -> Array:
    m = x.amax(axis, keepdim=True)
    m.masked_fill_((m >= 1) & (m <= _IN_RANGE[x.dtype]), 0)
    e = torch.sub(x, m).exp_()
    return e.div_(_sum(e, axis))


def log_softmax(x: Array, axis: int) -> Array:
    result = torch.sub(x, x.amax(axis, keepdim=True))
    e = result.exp()
    s = _sum(e, axis)
    near = s < 1.5  # log of a sum near 1 has lost its digits
    log_s = s.log_()
    if near.any():
        rows = e.movedim(axis, -1)[near.movedim(axis, -1)[..., 0]]
        rows.scatter_(-1, rows.argmax(-1, keepdim=True), 0)
        log_s.masked_scatter_(near, _sum(rows, -1).log1p_())
    return result.sub_(log_s)


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
    """v = g − p Σ g."""

    @staticmethod
    def forward(ctx: Any, x: Array, axis: int) -> Array:
        log_p = log_softmax(x, axis)
        ctx.axis = axis
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None]:
        (log_p,), axis = ctx.saved_tensors, ctx.axis
        place = log_p.argmax(axis, keepdim=True)
        p = log_p.exp()
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
