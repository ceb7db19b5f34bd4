"""The cross-entropy of labels by PyTorch on the CPU: one pass over the logits, and one more for the derivative.

With e = exp(x − shift), and `rest` the sum of those of all classes but the label's, the loss is log1p(rest/e_label)
where the label holds more than half of its row, and log(rest + e_label) − (x_label − shift) elsewhere. The derivative
is e/sum, and −rest/sum at the label. So neither is a difference of nearly equal numbers, and 1 − p is never computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd import Function

from anysoft_backends import _torch_kernels as kernels

Array = Any


class _Rows(NamedTuple):
    """Samples, by what their derivative is made of; with keepdims, the sums in float64."""

    labels: Array
    shift: Array
    rest: Array
    sum: Array
    lost: Array | None  # those that are ignored, and those that are no distribution
    axis: int
    smoothing: float
    whole: int | None  # what the sum of the losses is divided by; None where they are not summed


def cross_entropy(
    x: Array, targets: Array, axis: int, smoothing: float, ignore_index: int | None, z: float, reduction: str, lse: bool
) -> Any:
    """As the public function without weights; NotImplemented for labels out of range, and to smooth over −inf."""
    half, x = x.dtype, x if x.dtype in kernels.WIDE else x.float()
    labels = targets.long().unsqueeze(axis)
    ignored = None if ignore_index is None else labels == ignore_index
    if ignored is not None:
        labels = labels.masked_fill(ignored, 0)
    low, high = labels.aminmax()
    if low.item() < 0 or high.item() >= x.shape[axis]:
        return NotImplemented
    found = _losses(x.detach(), labels, axis, smoothing)
    if found is None:
        return NotImplemented
    cost, shift, rest, s = found
    lost = cost.isnan() if ignored is None else ignored | cost.isnan()
    if not lost.any():
        lost = ignored = None
    if ignored is not None:
        cost.masked_fill_(ignored, 0.0)
    whole = None
    if reduction != "none":
        counted = cost.numel() if ignored is None else cost.numel() - int(ignored.sum())
        whole = max(counted, 1) if reduction == "mean" else 1
    value = cost.squeeze(axis) if whole is None else _total(cost) / whole
    value = value.to(x.dtype)
    if x.requires_grad and torch.is_grad_enabled():
        value = kernels.apply(_Loss, x, value, _Rows(labels, shift, rest, s, lost, axis, smoothing, whole))
    if not (lse or z):
        return value.to(half)
    sums = _logsumexp(x, axis)
    if z:
        counting = sums if ignored is None else _logsumexp(x.masked_fill(ignored, 0.0), axis).masked_fill(ignored, 0.0)
        square = counting * counting
        value = value + z * (square.squeeze(axis) if whole is None else (_total(square) / whole).to(x.dtype))
    return (value.to(half), sums.squeeze(axis).to(half)) if lse else value.to(half)


def _logsumexp(x: Array, axis: int) -> Array:
    if x.requires_grad and torch.is_grad_enabled():
        return kernels.apply(kernels.LogSumExp, x, axis)
    return kernels.logsumexp(x, axis)


def _total(x: Array) -> Array:
    return kernels._sum(x.reshape(1, -1))[0, 0]


def _losses(x: Array, labels: Array, axis: int, smoothing: float) -> tuple[Array, ...] | None:
    """The losses, shifts, rests and sums of all samples."""
    found = tuple(torch.empty(labels.shape, dtype=dtype) for dtype in (torch.float64, x.dtype, *(torch.float64,) * 2))
    for rows, of_rows, *out in kernels._blocks(axis, x, labels, *found):
        m = rows.amax(-1, keepdim=True)
        shift = kernels._shift(m)
        e = torch.empty_like(rows)
        if smoothing:
            distance = kernels._sum(torch.sub(m, rows, out=e)) / rows.shape[-1]
            if distance.isinf().any():
                return None
        if shift is None:
            shift = torch.zeros_like(m)
            torch.exp(rows, out=e)
        else:
            torch.sub(rows, shift, out=e).exp_()
        own = e.gather(-1, of_rows).double()
        rest = kernels._sum(e.scatter_(-1, of_rows, 0.0))
        top = (m - shift).double().exp_()
        if x.dtype is torch.float64:
            _set_apart(e, top, own, rest)
        s = rest + own
        below = rows.gather(-1, of_rows).double() - shift
        cost = torch.where(own > rest, (rest / own).log1p_(), s.log() - below)
        if smoothing:
            cost = (1.0 - smoothing) * cost + smoothing * (distance + (s / top).log_())
        cost += m - m  # NaN for a row with no finite maximum
        for one, of_all in zip((cost, shift, rest, s), out, strict=True):
            of_all.copy_(one)
    return found


def _set_apart(e: Array, top: Array, own: Array, rest: Array) -> None:
    """Sum rows again in which another class than the label's holds most: beside it, small terms lose roundings."""
    wrong = (top > rest * 0.5) & (top > own)
    if wrong.any():
        which = wrong[..., 0].nonzero(as_tuple=True)
        rows = e[which]
        place = rows.argmax(-1, keepdim=True)
        largest = rows.gather(-1, place)
        rest[which] = kernels._sum(rows.scatter_(-1, place, 0.0)) + largest


class _Loss(Function):
    """A loss that is known already, with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Array, value: Array, rows: _Rows) -> Array:
        ctx.rows = rows
        ctx.save_for_backward(x)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None, None]:
        (x,), rows = ctx.saved_tensors, ctx.rows
        g = g.unsqueeze(rows.axis) if rows.whole is None else g / rows.whole
        if kernels._in_place(x, g):
            share, s = g.double().expand(rows.sum.shape), rows.sum
            if rows.lost is not None:
                share, s = share.masked_fill(rows.lost, 0.0), s.masked_fill(rows.lost, 1.0)
            factor = (share / s).to(x.dtype)
            if kernels._is_normal(factor, share):
                return _derivative(x, share, factor, rows), None, None
        p = kernels.apply(kernels.Softmax, x if rows.lost is None else torch.where(rows.lost, 0.0, x), rows.axis)
        own = torch.zeros_like(p, dtype=torch.bool).scatter_(rows.axis, rows.labels, True)
        others = torch.where(own, 0.0, p)
        rest = kernels._sum(others.movedim(rows.axis, -1)).movedim(-1, rows.axis).to(p.dtype)
        v = torch.where(own, rows.smoothing - rest, others) - rows.smoothing / p.shape[rows.axis]
        return (v if rows.lost is None else torch.where(rows.lost, 0.0, v)) * g, None, None


def _derivative(x: Array, share: Array, factor: Array, rows: _Rows) -> Array:
    even = rows.smoothing / x.shape[rows.axis]
    at_label = (share * (rows.smoothing - even - rows.rest / rows.sum)).to(x.dtype)
    result = torch.empty_like(x)
    parts = (result, x, rows.labels, rows.shift, factor, at_label, share)
    for v, some, labels, shift, by, own, weight in kernels._blocks(rows.axis, *parts):
        torch.sub(some, shift, out=v).exp_().mul_(by)
        if even:
            v.sub_((even * weight).to(v.dtype))
        v.scatter_(-1, labels, own)
    return result if rows.lost is None else result.masked_fill_(rows.lost, 0.0)

