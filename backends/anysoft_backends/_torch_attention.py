"""Attention by PyTorch: its own kernel, with a look at what came out, and a derivative that makes the scores again.

What autograd records of the generic formula grows with the score matrix. Here it is q, k and v; the scores come back
block by block, and p (g − Σ p g) of them is made by the kernels of softmax, whose 1 − p is never computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import Function, forward_ad

from anysoft import registry
from anysoft.registry import FastPath
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import is_compiling, may_look, only, transforms

Array = Any


_ENTRIES = 1 << 18  # of a block of scores


def _guard_attention(
    q: Array, k: Any, v: Any, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> bool | str:
    if return_logsumexp or block_size is not None:
        return "torch's function has no return_logsumexp and no block_size"
    if (usual := _usual(q, k, v, where, scale)) is not True:
        return usual
    if _differentiates(q, k, v):
        return "torch's kernel has no second derivative, and NaN for that of what is masked"
    if q.ndim > 4 or v.shape != k.shape:
        return "torch's kernel is for four axes, of one batch and one width; without it, torch holds all scores"
    return True


def _guard_derivative(q: Array, k: Any, v: Any, where: Any, scale: Any, *_: Any) -> bool | str:
    usual = _usual(q, k, v, where, scale)
    return usual if usual is not True or _differentiates(q, k, v) else "there is nothing to differentiate"


def _differentiates(*arrays: Array) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in arrays)


def _usual(q: Array, k: Any, v: Any, where: Any, scale: Any) -> bool | str:
    arrays = (q, k, v) if where is None else (q, k, v, where)
    for each in arrays:
        if each.__class__ is not torch.Tensor and each.__class__ is not torch.nn.Parameter:
            return f"this path is for plain tensors, not {type(each).__name__}"
    if is_compiling() or not may_look():
        return "a tracer is at work, and this path looks at values to decide"
    if transforms() is not None or forward_ad._current_level >= 0:
        return "torch.func's transforms and forward mode take the generic formula"
    if not q.is_cpu:
        return "this path looks at values to decide, which on a GPU is a synchronisation"
    if q.dtype not in kernels.WIDE or k.dtype is not q.dtype or v.dtype is not q.dtype:
        return "this path is for float32 and float64: torch rounds the probabilities of halves to halves"
    if not (scale is None or isinstance(scale, int | float)) or (where is not None and where.dtype is not torch.bool):
        return "torch's function takes a number for the scale and a mask that is boolean"
    if q.ndim < 2 or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return "this path is for arrays of one batch"
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        return "the shapes do not fit together"
    if not (q.numel() and k.numel() and v.numel()):
        return "this path needs at least one element"
    if where is not None and not _fits(where, (*q.shape[:-1], k.shape[-2])):
        return "the mask does not broadcast to the scores"
    return True


def _fits(x: Array, shape: tuple[int, ...]) -> bool:
    return x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False))


def _attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *_: Any) -> Any:
    """torch's kernel, unless a score might overflow or something is not finite: 0 · NaN is NaN where it is masked."""
    if not _bounded(q, k, scale):
        return NotImplemented
    # with fewer axes than four, torch makes all scores at once
    four = [None if each is None else each[(None,) * (4 - each.ndim)] for each in (q, k, v, where)]
    out = _sdpa(four[0], four[1], four[2], four[3], scale)
    return out.reshape(q.shape) if out.isfinite().all() else NotImplemented


def _bounded(q: Array, k: Array, scale: Any) -> bool:
    """Whether no score can overflow, which also says that all of q and k is finite."""
    largest = float(q.abs().amax()) * float(k.abs().amax()) * q.shape[-1] * abs(scale or 1.0)
    return bool(largest < torch.finfo(q.dtype).max / 4)


def _sdpa(q: Array, k: Array, v: Array, where: Any, scale: Any) -> Array:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=where, scale=scale)


# ---------------------------------------------------------------------------------------------------------------------
# With derivatives


def _differentiable_attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *more: Any) -> Any:
    if not (_bounded(q.detach(), k.detach(), scale) and v.detach().isfinite().all()):
        return NotImplemented
    return kernels.apply(_Attention, q, k, v, where, scale, *more)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Array, k: Array, v: Array, *options: Any) -> Any:
        ctx.options = options
        ctx.save_for_backward(q, k, v, options[0])
        return registry._operation("attention").call(False, q, k, v, *options)

    @staticmethod
    def backward(ctx: Any, g: Array, of_log_sum: Array | None = None) -> tuple[Any, ...]:
        (*given, _), options = ctx.saved_tensors, ctx.options
        gs = (g,) if of_log_sum is None else (g, of_log_sum)
        if kernels._in_place(*given, *gs) and _bounded(g, given[2], None):  # or 0 · ∞ where it is masked
            found = _derivatives(*given, *options[:2], *gs)
        else:  # the formula, which can be differentiated again
            wanted = [x for x in given if x.requires_grad]
            with torch.enable_grad():
                backend = registry.backend_of(given[0])
                out = registry._operation("attention").generic(backend, *given, *options)
                slopes = iter(torch.autograd.grad(out, wanted, gs if options[3] else g, create_graph=True))
            found = [next(slopes) if x.requires_grad else None for x in given]
        return *found, None, None, None, None


def _derivatives(
    q: Array, k: Array, v: Array, where: Any, scale: Any, g: Array, of_log_sum: Array | None = None
) -> list[Array]:
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    if where is not None:
        where = where.expand(*q.shape[:-1], k.shape[-2])
    for of_batch, rows in _blocks(q.shape, k.shape[-2]):
        some, keys, values, slope = q[of_batch][..., rows, :], k[of_batch], v[of_batch], g[of_batch][..., rows, :]
        some = some * scale
        scores = some @ keys.mT
        if where is not None:
            kept = where[of_batch][..., rows, :]
            p = kernels.softmax(scores.masked_fill_(~kept, -math.inf), -1)
            p.masked_fill_(~kept.any(-1, keepdim=True), 0.0)
        else:
            p = kernels.softmax(scores, -1)
        torch.matmul(slope, values.mT, out=scores)
        by_score = torch.empty_like(scores)
        kernels._write_softmax_derivative(p, scores, by_score)
        if of_log_sum is not None:
            by_score.addcmul_(p, of_log_sum[of_batch][..., rows, None])
        torch.mul(by_score @ keys, scale, out=by_q[of_batch][..., rows, :])
        by_k[of_batch].add_(by_score.mT @ some)
        by_v[of_batch].add_(p.mT @ slope)
    return [by_q, by_k, by_v]


def _blocks(shape: tuple[int, ...], n_k: int) -> Iterator[tuple[Any, slice]]:
    """An index of the batch and one of queries for each block of scores: the whole of some batches, or part of one."""
    *batch, n_q, _ = shape
    entries, whole = n_q * n_k, len(batch)
    while whole and entries * batch[whole - 1] <= _ENTRIES:
        whole -= 1
        entries *= batch[whole]
    rows = n_q if entries <= _ENTRIES else max(_ENTRIES // n_k, 1)
    queries = [slice(start, start + rows) for start in range(0, n_q, rows)]
    ranges: list[Any] = [range(n) for n in batch[:whole]]
    if whole:
        some = max(_ENTRIES // entries, 1)
        ranges[-1] = [slice(start, start + some) for start in range(0, batch[whole - 1], some)]
    yield from itertools.product(itertools.product(*ranges), queries)


def _raw_attention(
    q: Array, k: Array, v: Array, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> Array:
    only("torch.nn.functional.scaled_dot_product_attention", block_size=block_size, return_logsumexp=return_logsumexp)
    if isinstance(scale, torch.Tensor):
        raise LookupError("torch's attention takes a number for the scale; use path='auto' or 'generic'")
    return _sdpa(q, k, v, where[None] if where is not None and where.ndim < 2 else where, scale)


PATHS = (
    FastPath("attention", "torch.scaled_dot_product_attention", _attention, _guard_attention, _raw_attention),
    FastPath("attention", "torch, own derivative", _differentiable_attention, _guard_derivative),
)
