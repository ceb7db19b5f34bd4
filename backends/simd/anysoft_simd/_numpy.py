"""The kernels for NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anysoft_backends import _numpy_softmax

from anysoft import FastPath, registry
from anysoft_simd import _kernels as kernels

Array = Any


_SERIAL = 1 << 17  # entries, in less than whose time no thread is made


def guard(x: Array, *more: Any) -> bool | str:
    allowed = _numpy_softmax.guard(x, *more)
    if allowed is not True:
        return allowed
    return True if x.flags.forc else "the compiled kernel is for contiguous arrays"


def _threads(x: Array) -> int:
    return 1 if x.size < _SERIAL else registry.workers()


def _logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if guard(x, axis, where, b, dtype, keepdims, return_sign) is not True:
        return NotImplemented
    shape, ndim = x.shape, x.ndim
    if not x.flags.c_contiguous:  # what lies in memory in order is the transpose
        turned = None if axis is None else ndim - 1 - axis % ndim
        return _logsumexp(x.T, turned, None, None, None, keepdims, False).T
    if axis is None:
        reduced: tuple[int, ...] = (1,) * ndim if keepdims else ()
    else:
        after = shape[axis + 1 :] if axis != -1 else ()
        reduced = (*shape[:axis], 1, *after) if keepdims else (*shape[:axis], *after)
    out = np.empty(reduced, x.dtype)
    kernels.logsumexp(x.itemsize, x, 0, out, 0, shape, axis, _threads(x))
    return out if reduced else out[()]


def _normalisation(kernel: Callable[..., None]) -> Callable[..., Array]:
    def call(x: Array, axis: Any, where: Any = None, temperature: Any = None, dtype: Any = None) -> Array:
        if guard(x, axis, where, temperature, dtype) is not True:
            return NotImplemented
        if not x.flags.c_contiguous:
            return call(x.T, None if axis is None else x.ndim - 1 - axis % x.ndim).T
        out = np.empty(x.shape, x.dtype)
        kernel(x.itemsize, x, 0, out, 0, x.shape, axis, _threads(x))
        return out

    return call


PATHS = (
    FastPath("logsumexp", "anysoft-simd", _logsumexp, guard, asks_itself=True),
    FastPath("softmax", "anysoft-simd", _normalisation(kernels.softmax), guard, asks_itself=True),
    FastPath("log_softmax", "anysoft-simd", _normalisation(kernels.log_softmax), guard, asks_itself=True),
)
