"""Sampling by NumPy: random bits, and in-place kernels for noise and for the choice by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from anysoft.registry import FastPath
from anysoft_backends._numpy_blocks import FLOAT32, FLOAT64
from anysoft_backends._numpy_softmax import guard

Array = Any


def random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
    if rng is None or isinstance(rng, int):
        rng = np.random.default_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng.integers(0, 2**32, size=shape, dtype=np.uint32)
    if isinstance(rng, np.random.RandomState):
        return rng.randint(0, 2**32, size=shape, dtype=np.uint32)
    raise TypeError(f"rng must be a numpy.random.Generator or an integer seed here, not {rng!r}")


def _guard_gumbel(bits: Array, dtype: Any) -> bool | str:
    if bits.__class__ is not np.ndarray or dtype not in (FLOAT32, FLOAT64):
        return "the kernel is for plain arrays of bits, float32 and float64"
    return True


def _gumbel(bits: Array, dtype: Any) -> Array:
    """The generic formula in place: fresh pages cost more than the logarithms."""
    dtype = np.dtype(dtype)
    unit = dtype.type(2.0**-32)
    if dtype == FLOAT64:
        v = bits[1, ...].astype(dtype)
        v += 0.5
        v *= unit
        v += bits[0, ...]
    else:
        v = bits.astype(dtype)
        v += dtype.type(0.5)
    v *= unit
    np.minimum(v, dtype.type(1.0 - 0.5 * np.finfo(dtype).eps), out=v)
    for function in (np.negative, np.log1p, np.negative, np.log, np.negative):
        function(v, out=v)
    return v


def _guard_categorical(
    x: Array, axis: Any, where: Any, temperature: Any, shape: None, rng: None, noise: Any
) -> bool | str:
    if noise.__class__ is not np.ndarray or noise.dtype != x.dtype or noise.shape[noise.ndim - x.ndim :] != x.shape:
        return "the kernel takes noise of the dtype and shape of the logits, or several times that shape"
    return "the kernel draws along one axis" if axis is None else guard(x, axis, where, temperature, None)


def _categorical(x: Array, axis: int, where: None, temperature: None, shape: None, rng: None, noise: Array) -> Any:
    m = np.maximum.reduce(x, axis=axis, keepdims=True)
    if not np.isfinite(m).all():
        return NotImplemented
    along = axis % x.ndim - x.ndim
    with np.errstate(all="ignore"):
        keys = np.subtract(x, m)
        keys = np.add(keys, noise, out=keys if noise.ndim == x.ndim else None)
    index = keys.argmax(axis=along, keepdims=True)
    if not np.isfinite(np.take_along_axis(keys, index, axis=along)).all():  # nor was the noise
        return NotImplemented
    return index.squeeze(along)


def _top_k(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    n = x.shape[axis]
    index = np.take(np.argpartition(x, n - k, axis=axis), range(n - k, n), axis=axis)
    some = np.take_along_axis(x, index, axis=axis)
    order = np.argsort(-some, axis=axis)
    return np.take_along_axis(some, order, axis=axis), np.take_along_axis(index, order, axis=axis)


PATHS = (
    FastPath("gumbel", "numpy kernel", _gumbel, _guard_gumbel),
    FastPath("categorical", "numpy kernel", _categorical, _guard_categorical),
    FastPath("largest", "numpy.argpartition", _top_k),
)
