"""Entropy and Kullback-Leibler divergence of float32 and less by PyTorch on the CPU: in float64, by blocks of rows.

The formulas are those of anysoft/entropy.py, with log q − log p called z. Their care for float64 is not needed here,
where it has digits to spare; what is left is that no term is a difference of nearly equal numbers, and that derivatives
are relative to the entry that holds most. A result that is not finite is the generic formula's to find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import Function, forward_ad

from anysoft import registry
from anysoft.registry import FastPath
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import is_compiling, may_look, transforms, why_no_kernel

Array = Any
_ENTRIES = 1 << 15
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _guard(arrays: tuple[Any, ...], axis: Any, *options: Any) -> bool | str:
    x = arrays[0]
    if any(option is not None for option in options):
        return "the kernel has no where, temperature or dtype"
    if any(a.__class__ is not torch.Tensor and a.__class__ is not torch.nn.Parameter for a in arrays):
        return "the kernel is for plain tensors"
    if is_compiling() or not may_look() or transforms() is not None or forward_ad._current_level >= 0:
        return "a tracer, a transform of torch.func or forward mode is at work, and takes the generic formula"
    if axis.__class__ is not int or x.dtype not in _NARROW:
        return "the kernel computes float32 and less in float64, along one axis"
    if any(a.shape != x.shape or a.dtype is not x.dtype or a.device != x.device for a in arrays):
        return "the kernel is for two arrays of one shape and dtype"
    return why_no_kernel(x, axis)


def _guard_entropy(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any, keepdims: bool) -> bool | str:
    return _guard((x,), axis, where, temperature, dtype)


def _guard_two(x: Array, y: Any, axis: Any, where: Any, dtype: Any, keepdims: bool) -> bool | str:
    return _guard((x, y), axis, where, dtype)


def _blocks(axis: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Few enough rows for some copies of them in float64 to stay in a core's cache."""
    for rows in kernels._blocks(axis, *arrays):
        if rows[0].ndim == 2:
            yield from zip(*(a.split(max(_ENTRIES // rows[0].shape[-1], 1)) for a in rows), strict=True)
        else:
            yield rows


class _Row:
    """p = e/s, and how far below the largest logit each is."""

    def __init__(self, x: Array) -> None:
        self.top = x.amax(-1, keepdim=True)
        self.d = self.top - x
        self.p = torch.neg(self.d).exp_()
        self.s = self.p.sum(-1, keepdim=True)
        self.p /= self.s

    def about_mean(self, t: Array) -> Array:
        """p (t − Σ p t), of t less that of the largest entry."""
        t = t - t.masked_fill(self.d != 0, -math.inf).amax(-1, keepdim=True)
        return (t - (self.p * t).sum(-1, keepdim=True)).mul_(self.p)


def _entropy(x: Array) -> Array:
    row = _Row(x)
    tied = row.d == 0
    rest = (row.p * row.s).masked_fill_(tied, 0.0).sum(-1, keepdim=True)
    return (rest + (tied.sum(-1, keepdim=True) - 1)).log1p_() + (row.p * row.d).sum(-1, keepdim=True)


def _slope_of_entropy(x: Array) -> tuple[Array, ...]:
    row = _Row(x)
    return (row.about_mean(row.d),)


def _ratio(x: Array, y: Array) -> tuple[_Row, _Row, Array]:
    """p, q and z. An error that all z of a row share costs its square, because Σ (q − p) is 0."""
    p, q = _Row(x), _Row(y)
    return p, q, (y - x).sub_((q.top - p.top) + (q.s / p.s).log_())


def _terms(p: Array, q: Array, z: Array) -> Array:
    """q − p − p z, at least 0."""
    series = (z / 24 + 1 / 6).mul_(z).add_(0.5).mul_(z).mul_(z)
    return torch.where(z.abs() < 1e-3, series.mul_(p), (q - p).sub_(p * z))


def _kl(x: Array, y: Array) -> Array:
    p, q, z = _ratio(x, y)
    return _terms(p.p, q.p, z).sum(-1, keepdim=True)


def _slope_of_kl(x: Array, y: Array) -> tuple[Array, ...]:
    p, q, z = _ratio(x, y)
    change = torch.where(z.abs() < 1.0, z.expm1().mul_(p.p), q.p - p.p)
    most = p.p > 0.5  # near 1 the others' changes have the digits
    others = change.masked_fill(most, 0.0).sum(-1, keepdim=True)
    return p.about_mean(x - y), torch.where(most, -others, change)


_FORMULAS: dict[str, tuple[Callable[..., Array], Callable[..., tuple[Array, ...]]]] = {
    "entropy": (_entropy, _slope_of_entropy),
    "kl_divergence": (_kl, _slope_of_kl),
}


def _path(name: str, guard: Callable[..., bool | str]) -> FastPath:
    formula, count = _FORMULAS[name][0], 1 if name == "entropy" else 2

    def call(*arguments: Any) -> Any:
        arrays, axis, keepdims = arguments[:count], arguments[count], arguments[-1]
        fixed = tuple(a.detach() for a in arrays)
        value = kernels._for_each_row(fixed[0], axis)
        for *rows, out in _blocks(axis, *fixed, value):
            out.copy_(formula(*(a.double() for a in rows)))
        if not value.isfinite().all():
            return NotImplemented
        if torch.is_grad_enabled() and any(a.requires_grad for a in arrays):
            value = kernels.apply(_Known, name, axis, value, *arrays)
        return value if keepdims else value.squeeze(axis)

    return FastPath(name, "torch kernel", call, guard)


class _Known(Function):
    """A value that is known already, with its derivative."""

    @staticmethod
    def forward(ctx: Any, name: str, axis: int, value: Array, *arrays: Array) -> Array:
        ctx.name, ctx.axis = name, axis
        ctx.save_for_backward(*arrays)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Any, ...]:
        arrays, axis = ctx.saved_tensors, ctx.axis
        if not kernels._in_place(*arrays, g):
            return None, None, None, *_again(ctx.name, arrays, axis, g)
        slope = _FORMULAS[ctx.name][1]
        found = tuple(map(torch.empty_like, arrays))
        for parts in _blocks(axis, *found, *arrays, g):
            outs, rows = parts[: len(arrays)], parts[len(arrays) : -1]
            for out, one in zip(outs, slope(*(a.double() for a in rows)), strict=True):
                torch.mul(one, parts[-1], out=out)
        return None, None, None, *found


def _again(name: str, arrays: tuple[Array, ...], axis: int, g: Array) -> list[Array | None]:
    """The derivatives of the generic formula, which have derivatives."""
    wanted = [a for a in arrays if a.requires_grad]
    options = (None, None) if name != "entropy" else (None, None, None)
    with torch.enable_grad():
        value = registry._operation(name).generic(registry.backend_of(arrays[0]), *arrays, axis, *options, True)
        found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
    return [next(found) if a.requires_grad else None for a in arrays]


PATHS = (
    _path("entropy", _guard_entropy),
    _path("kl_divergence", _guard_two),
)
