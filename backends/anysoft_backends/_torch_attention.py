"""Attention by PyTorch: its own kernel where nothing is differentiated, with a look at what came out."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from anysoft.registry import FastPath
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import is_compiling, may_look, only, transforms

Array = Any


def _guard_attention(
    q: Array, k: Any, v: Any, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> bool | str:
    if return_logsumexp or block_size is not None:
        return "torch's function has no return_logsumexp and no block_size"
    arrays = (q, k, v) if where is None else (q, k, v, where)
    for each in arrays:
        if each.__class__ is not torch.Tensor and each.__class__ is not torch.nn.Parameter:
            return f"this path is for plain tensors, not {type(each).__name__}"
    if is_compiling() or not may_look():
        return "a tracer is at work, and this path looks at values to decide"
    if (torch.is_grad_enabled() and any(each.requires_grad for each in arrays)) or forward_ad._current_level >= 0:
        return "torch's kernel has no second derivative, and NaN for that of what is masked"
    if transforms() is not None:
        return "torch.func's transforms take the generic formula"
    if not q.is_cpu:
        return "this path looks at values to decide, which on a GPU is a synchronisation"
    if q.dtype not in kernels.WIDE or k.dtype is not q.dtype or v.dtype is not q.dtype:
        return "this path is for float32 and float64: torch rounds the probabilities of halves to halves"
    if not (scale is None or isinstance(scale, int | float)) or (where is not None and where.dtype is not torch.bool):
        return "torch's function takes a number for the scale and a mask that is boolean"
    if not 2 <= q.ndim <= 4 or q.shape[:-2] != k.shape[:-2] or k.shape != v.shape or q.shape[-1] != k.shape[-1]:
        return "torch's kernel is for four axes, of one batch and one width; without it, torch holds all scores"
    if not (q.numel() and k.numel()):
        return "this path needs at least one element"
    if where is not None and not _fits(where, (*q.shape[:-1], k.shape[-2])):
        return "the mask does not broadcast to the scores"
    return True


def _fits(x: Array, shape: tuple[int, ...]) -> bool:
    return x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False))


def _attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *_: Any) -> Any:
    """torch's kernel, unless a score might overflow or something is not finite: 0 · NaN is NaN where it is masked."""
    width = q.shape[-1]
    largest = float(q.abs().amax()) * float(k.abs().amax()) * width * abs(scale or 1.0)
    if not largest < torch.finfo(q.dtype).max / 4:
        return NotImplemented
    # with fewer axes than four, torch makes all scores at once
    four = [None if each is None else each[(None,) * (4 - each.ndim)] for each in (q, k, v, where)]
    out = _sdpa(four[0], four[1], four[2], four[3], scale)
    return out.reshape(q.shape) if out.isfinite().all() else NotImplemented


def _sdpa(q: Array, k: Array, v: Array, where: Any, scale: Any) -> Array:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=where, scale=scale)


def _raw_attention(
    q: Array, k: Array, v: Array, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> Array:
    only("torch.nn.functional.scaled_dot_product_attention", block_size=block_size, return_logsumexp=return_logsumexp)
    if isinstance(scale, torch.Tensor):
        raise LookupError("torch's attention takes a number for the scale; use path='auto' or 'generic'")
    return _sdpa(q, k, v, where[None] if where is not None and where.ndim < 2 else where, scale)


PATHS = (FastPath("attention", "torch.scaled_dot_product_attention", _attention, _guard_attention, _raw_attention),)
