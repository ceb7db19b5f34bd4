"""The cross-entropy of labels by PyTorch on the CPU: one pass over the logits, and one more for the derivative.

With e = exp(x − shift), and `rest` the sum of those of all classes but the label's, the loss is log1p(rest/e_label)
where the label holds more than half of its row, and log(rest + e_label) − (x_label − shift) elsewhere. The derivative
is e/sum, and −rest/sum at the label. So neither is a difference of nearly equal numbers, and 1 − p is never computed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.autograd import Function

from anysoft_backends import _torch_kernels as kernels

Array = Any

_PIECE = {torch.float32: 128, torch.float64: 1024}


class _Rows(NamedTuple):
    """Samples, by what their derivative is made of; with keepdims, the sums in float64."""

    labels: Array
    shift: Array | None
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
    differentiated = x.requires_grad and torch.is_grad_enabled()
    fixed, found = x.detach(), None
    if x.numel() <= kernels._SMALL and not smoothing and (x.dtype is torch.float32 or not differentiated):
        found = _few(fixed, labels, axis)
    if found is None and (found := _losses(fixed, labels, axis, smoothing, differentiated)) is None:
        return NotImplemented
    cost, shift, rest, s = found
    lost, counted, whole = None, cost.numel(), None
    if ignored is not None and ignored.any():
        lost = ignored | cost.isnan()
        cost.masked_fill_(ignored, 0.0)
        counted -= int(ignored.sum())
    if reduction != "none":
        whole = max(counted, 1) if reduction == "mean" else 1
    value = cost.squeeze(axis) if whole is None else _total(cost) / whole
    if lost is None and differentiated and value.isnan().any():
        lost = cost.isnan()
    value = value.to(x.dtype)
    if differentiated:
        value = kernels.apply(_Loss, x, value, _Rows(labels, shift, rest, s, lost, axis, smoothing, whole))
    if not (lse or z):
        return value.to(half)
    sums = _logsumexp(x, axis)
    if z:
        counting = sums if lost is None else _logsumexp(x.masked_fill(lost, 0.0), axis).masked_fill(lost, 0.0)
        square = counting * counting
        value = value + z * (square.squeeze(axis) if whole is None else (_total(square) / whole).to(x.dtype))
    return (value.to(half), sums.squeeze(axis).to(half)) if lse else value.to(half)


def _logsumexp(x: Array, axis: int) -> Array:
    if x.requires_grad and torch.is_grad_enabled():
        return kernels.apply(kernels.LogSumExp, x, axis)
    return kernels.logsumexp(x, axis)


def _total(x: Array) -> Array:
    return x.sum() if x.numel() <= _PIECE[torch.float64] else _sum(x.reshape(1, -1))[0, 0]


def _few(x: Array, labels: Array, axis: int) -> tuple[Array, ...] | None:
    """`_losses` of few numbers in few calls, shifted by the logit of the label; None if that is not in range."""
    wide = x.double()
    shift = wide.gather(axis, labels)
    e = (wide - shift).exp_().scatter_(axis, labels, 0.0)
    rest = e.sum(axis, keepdim=True) if x.dtype is torch.float32 else _sum(e.movedim(axis, -1)).movedim(-1, axis)
    cost = rest.log1p()
    return (cost, shift, rest, rest + 1.0) if math.isfinite((cost + shift).sum().item()) else None


def _losses(x: Array, labels: Array, axis: int, smoothing: float, differentiated: bool) -> tuple[Array, ...] | None:
    """The losses, shifts, rests and sums of all samples; None where one is to be smoothed over −inf."""
    below = x.gather(axis, labels).double()
    own = below.exp()
    short = differentiated and x.shape[axis] <= kernels.LANES  # their sums say little
    if not (smoothing or short) and (rest := _unshifted(x, labels, axis, own, differentiated)) is not None:
        return _loss(own, rest, below), None, rest, rest + own
    rest, undefined, even = (torch.empty_like(own) for _ in range(3))
    shift = torch.zeros(own.shape, dtype=x.dtype)
    for rows, places, *of in kernels._blocks(axis, x, labels, below, own, rest, shift, undefined, even):
        of_below, of_own, of_rest, of_shift, of_undefined, of_even = of
        m = rows.amax(-1, keepdim=True)
        of_undefined.copy_(m - m)  # NaN for a row with no finite maximum
        if (by := kernels._shift(m)) is not None:
            of_shift.copy_(by)
            of_own.copy_(of_below.sub_(of_shift).exp())
        of_rest.copy_(_sum_but((rows - of_shift).exp_(), places))
        if smoothing:
            of_even.copy_(_sum(m - rows) / rows.shape[-1])
            of_even.add_(((of_rest + of_own) / (m - of_shift).double().exp_()).log_())
    cost = _loss(own, rest, below).add_(undefined)
    if smoothing:
        if even.isinf().any():
            return None
        cost = (1.0 - smoothing) * cost + smoothing * even
    return cost, shift, rest, rest + own


def _loss(own: Array, rest: Array, below: Array) -> Array:
    return torch.where(own > rest, (rest / own).log1p_(), (rest + own).log_().sub_(below))


def _unshifted(x: Array, labels: Array, axis: int, own: Array, differentiated: bool) -> Array | None:
    """The rests, if no exponential leaves the range; which the sums say, so that nobody looks for a maximum.

    A loss wants the digits of the rest; a derivative those of each share, as far as there are such of the maximum.
    """
    form, most = torch.finfo(x.dtype), math.exp(kernels._IN_RANGE[x.dtype])
    least = x.shape[axis] if differentiated else form.tiny / form.eps
    rest, e = torch.empty_like(own), None
    for rows, places, of_own, of_rest in kernels._blocks(axis, x, labels, own, rest):
        e = torch.empty_like(rows) if e is None or e.shape != rows.shape else e
        of_rest.copy_(_sum_but(torch.exp(rows, out=e), places))
        low, high = (of_rest + of_own if differentiated else of_rest).aminmax()
        if not (least <= low.item() and high.item() <= most):
            return None
    return rest if own.amax().item() <= most else None


def _sum_but(e: Array, places: Array) -> Array:
    """Sum of rows, in float64, without the entries of the labels; `e` is used up.

    In float64 itself another one that holds most is set apart too: beside it, each small term would lose a rounding.
    """
    rest = _sum(e.scatter_(-1, places, 0.0))
    if e.dtype is torch.float64 and e.shape[-1] > kernels.LANES:
        top = e.amax(-1, keepdim=True)
        alone = top > 0.5 * rest
        if alone.any():
            which = alone[..., 0].nonzero(as_tuple=True)
            rows, largest = e[which], top[which]
            tied = rows == largest
            rest[which] = tied.sum(-1, keepdim=True) * largest + _sum(rows.masked_fill_(tied, 0.0))
    return rest


def _sum(e: Array) -> Array:
    """Sum of rows in float64, by pieces: torch's own sum of one joins each term with less than thirty others."""
    n, size = e.shape[-1], _PIECE[e.dtype]
    if n <= kernels.LANES or (n <= size and e.dtype is torch.float64):
        return e.sum(-1, keepdim=True, dtype=torch.float64)
    whole = n - n % size
    sums = e[..., :whole].unflatten(-1, (-1, size)).sum(-1)
    sums = sums.sum(-1, keepdim=True, dtype=torch.float64) if e.dtype is torch.float32 else _sum(sums)
    return sums if whole == n else sums.add_(e[..., whole:].sum(-1, keepdim=True))


class _Loss(Function):
    """A loss that is known already, with its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Array, value: Array, rows: _Rows) -> Array:
        ctx.rows = rows
        ctx.save_for_backward(x, rows.labels)  # or nobody would notice that the targets were written to since
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array, None, None]:
        (x, _), rows = ctx.saved_tensors, ctx.rows
        if kernels._in_place(x, g) and (v := _derivative(x, g, rows)) is not None:
            return v, None, None
        g = g.unsqueeze(rows.axis) if rows.whole is None else g / rows.whole
        p = kernels.apply(kernels.Softmax, x if rows.lost is None else torch.where(rows.lost, 0.0, x), rows.axis)
        own = torch.zeros_like(p, dtype=torch.bool).scatter_(rows.axis, rows.labels, True)
        others = torch.where(own, 0.0, p)
        rest = kernels._sum(others.movedim(rows.axis, -1)).movedim(-1, rows.axis).to(p.dtype)
        v = torch.where(own, rows.smoothing - rest, others) - rows.smoothing / p.shape[rows.axis]
        return (v if rows.lost is None else torch.where(rows.lost, 0.0, v)) * g, None, None


def _derivative(x: Array, g: Array, rows: _Rows) -> Array | None:
    """In place; None where g/sum would have lost digits."""
    s = rows.sum if rows.lost is None else rows.sum.masked_fill(rows.lost, 1.0)
    share = g.double().unsqueeze(rows.axis) if rows.whole is None else g.item() / rows.whole
    factor = (share / s).to(x.dtype)
    if rows.whole is None:
        normal = kernels._is_normal(factor, share)
    else:  # of one number for all, the largest sum says it
        normal = share == 0 or abs(share) >= torch.finfo(x.dtype).tiny * s.amax().item()
    if not normal:
        return None
    even = rows.smoothing / x.shape[rows.axis]
    at_label = (rows.rest / s).neg_().add_(rows.smoothing - even).mul_(share)
    wide = x if rows.shift is None else x.to(rows.shift.dtype)  # few numbers are shifted in float64
    v = torch.empty_like(wide)
    shift = factor if rows.shift is None else rows.shift
    for out, some, by, times in kernels._blocks(rows.axis, v, wide, shift, factor):
        (torch.exp(some, out=out) if rows.shift is None else torch.sub(some, by, out=out).exp_()).mul_(times)
    if even:
        v -= even * share
    v.scatter_(rows.axis, rows.labels, at_label.to(v.dtype))
    return (v if rows.lost is None else v.masked_fill_(rows.lost, 0.0)).to(x.dtype)
