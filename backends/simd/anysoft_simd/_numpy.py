"""The kernels for NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from anysoft_backends import _numpy_softmax

from anysoft import FastPath
from anysoft_simd import _kernels as kernels

Array = Any


def guard(x: Array, axis: Any, *more: Any) -> bool | str:
    allowed = _numpy_softmax.guard(x, axis, *more)
    if allowed is not True:
        return allowed
    flags = x.flags
    return True if flags.c_contiguous or flags.f_contiguous else "the compiled kernel is for contiguous arrays"


def _run(kernel: Callable[..., None], x: Array, axis: int, out: Array) -> None:
    shape = x.shape
    kernel(x.itemsize, x, 0, out, 0, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), 1)


def _logsumexp(x: Array, axis: Any, where: None, b: None, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if axis is None or x.ndim == 1:
        out = np.empty((), x.dtype)
        if not x.flags.c_contiguous:
            x = x.T
        kernels.logsumexp(x.itemsize, x, 0, out, 0, 1, x.size, 1, 1)
        return np.full((1,) * x.ndim, out) if keepdims else out[()]
    axis %= x.ndim
    if not x.flags.c_contiguous:  # what lies in memory in order is the transpose
        value: Array = _logsumexp(x.T, x.ndim - 1 - axis, None, None, None, keepdims, False).T
        return value
    out = np.empty(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
    _run(kernels.logsumexp, x, axis, out)
    return np.expand_dims(out, axis) if keepdims else out


def _normalisation(kernel: Callable[..., None]) -> Callable[..., Array]:
    def call(x: Array, axis: int | None, *_: Any) -> Array:
        if not x.flags.c_contiguous:
            return call(x.T, None if axis is None else x.ndim - 1 - axis % x.ndim).T
        out = np.empty(x.shape, x.dtype)
        if axis is None or x.ndim == 1:
            kernel(x.itemsize, x, 0, out, 0, 1, x.size, 1, 1)
        else:
            _run(kernel, x, axis % x.ndim, out)
        return out

    return call


PATHS = (
    FastPath("logsumexp", "anysoft-simd", _logsumexp, guard),
    FastPath("softmax", "anysoft-simd", _normalisation(kernels.softmax), guard),
    FastPath("log_softmax", "anysoft-simd", _normalisation(kernels.log_softmax), guard),
)
