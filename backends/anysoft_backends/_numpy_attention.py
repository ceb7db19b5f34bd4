"""Attention by NumPy: an online softmax in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anysoft.registry import FastPath
from anysoft_backends._numpy_blocks import FLOAT32, FLOAT64

Array = Any

_ENTRIES, _KEYS = 1 << 18, 512  # of a block of scores: a megabyte of float32, near what a core's cache holds


def _guard_attention(
    q: Array, k: Any, v: Any, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> bool | str:
    if return_logsumexp or block_size is not None:
        return "the kernel has no return_logsumexp and no block_size"
    for each in (q, k, v) if where is None else (q, k, v, where):
        if each.__class__ is not np.ndarray:
            return f"the kernel is for plain arrays, not {type(each).__name__}"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (FLOAT32, FLOAT64):
        return f"the kernel is for float32 and float64, not {', '.join(str(each.dtype) for each in (q, k, v))}"
    if not (scale is None or isinstance(scale, int | float)) or (where is not None and where.dtype != bool):
        return "the kernel takes a number for the scale and a mask that is boolean"
    if q.ndim < 2 or q.shape[:-2] != k.shape[:-2] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        return "the kernel is for arrays of one batch"
    if not (q.size and k.size):
        return "the kernel needs at least one element"
    if where is not None and not _fits(where.shape, (*q.shape[:-1], k.shape[-2])):
        return "the mask does not broadcast to the scores"
    return True


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) <= len(whole) and all(n in (1, m) for n, m in zip(shape[::-1], whole[::-1], strict=False))


def _attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *_: Any) -> Any:
    """Online softmax in place, unless a score might overflow or something is not finite: there 0 · NaN is NaN."""
    (n_q, width), n_k = q.shape[-2:], k.shape[-2]
    factor = 1 / math.sqrt(width) if scale is None else scale
    with np.errstate(all="ignore"):
        if not _largest(q) * _largest(k) * width * abs(factor or 1) < np.finfo(q.dtype).max / 4:
            return NotImplemented
        q = q * q.dtype.type(factor)
        out = np.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
        if where is not None:
            where = np.broadcast_to(where, (*q.shape[:-1], n_k))
        whole = q.size // width * n_k <= _ENTRIES
        for place in [()] if whole else np.ndindex(q.shape[:-2]):
            rows = n_q if whole else max(_ENTRIES // min(n_k, _KEYS), 1)
            for start in range(0, n_q, rows):
                part = (*place, ..., slice(start, start + rows), slice(None))
                _attend(q[part], k[place], v[place], None if where is None else where[part], out[part])
        return out if np.isfinite(out).all() else NotImplemented


def _largest(x: Array) -> float:
    return max(float(x.max()), -float(x.min()))


def _attend(q: Array, k: Array, v: Array, where: Array | None, out: Array) -> None:
    """Write to `out`, which is 0, the attention of a block of queries that are scaled already."""
    m = np.full((*q.shape[:-1], 1), -np.inf, dtype=q.dtype)
    r, o = np.zeros_like(m), out.copy()
    for start in range(0, k.shape[-2], _KEYS):
        part = slice(start, start + _KEYS)
        e = q @ np.swapaxes(k[..., part, :], -1, -2)
        if where is not None:
            np.copyto(e, -np.inf, where=~where[..., part])
        top = np.maximum(m, np.maximum.reduce(e, axis=-1, keepdims=True))
        origin = np.where(top == -np.inf, 0, top)  # nothing seen yet
        np.subtract(e, origin, e)
        np.exp(e, e)
        old = np.exp(m - origin)
        r = r * old + np.add.reduce(e, axis=-1, keepdims=True)
        o = o * old + e @ v[..., part, :]
        m = top
    np.divide(o, r, out, where=r > 0)


PATHS = (FastPath("attention", "numpy kernel", _attention, _guard_attention),)
