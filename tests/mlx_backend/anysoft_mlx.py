"""MLX: `mlx.core` is nearly the standard. Operations have a device there; arrays have none, and are immutable."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from anysoft.registry import Backend


def _libm(x: Any) -> Any:
    return mx.sinh(x) + mx.cosh(x)  # on the CPU mx.exp is up to 64 ulp off, and no better in float64 (mlx#3047)


@mx.custom_function  # type: ignore[untyped-decorator, unused-ignore]
def _exp(x: Any) -> Any:
    size = mx.abs(x)  # past 80 in two steps, because the smallest results are below 1/max
    return mx.where(x < 0, 1.0 / _libm(mx.minimum(size, 80.0)) / _libm(mx.maximum(size - 80.0, 0.0)), _libm(size))


_exp.vjp(lambda x, cotangent, _: cotangent * _exp(x))  # what MLX derives is 0 at 0, and ∞ · 0 where exp(x) is 0
_exp.jvp(lambda x, tangent: tangent * _exp(x))


def _sum(x: Any, *, axis: Any, keepdims: bool = False) -> Any:
    axes = [one % x.ndim for one in ((axis,) if isinstance(axis, int) else axis)]
    # of nothing alone, mx.sum on the CPU does not always return (0.32.4), so that a zero is added to it
    x = x if x.size else mx.pad(x, [(0, int(one in axes)) for one in range(x.ndim)])
    return mx.sum(x, axis=axes, keepdims=keepdims)


_XP = SimpleNamespace(**vars(mx))
_XP.bool, _XP.exp, _XP.sum = mx.bool_, _exp, _sum
_XP.astype = lambda x, dtype, copy=True: x.astype(dtype)
_XP.asarray = lambda value, dtype=None, device=None: mx.asarray(value, dtype=dtype)
_XP.full = lambda shape, value, dtype=None, device=None: mx.full(shape, value, dtype=dtype)
_XP.arange = lambda start, stop=None, step=1, dtype=None, device=None: mx.arange(start, stop, step, dtype)
_XP.argsort = lambda x, axis=-1, descending=False, stable=True: mx.argsort(-x if descending else x, axis=axis)
BACKEND = Backend("mlx.core", ("mlx.core:array",), lambda x: _XP, stop_gradient=mx.stop_gradient)
