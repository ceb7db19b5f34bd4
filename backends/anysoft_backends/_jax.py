"""JAX: every call is one cached jit of the generic implementation; its own functions are there for comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from anysoft.registry import Backend, FastPath, Operation

Array = Any

_COMPILED: dict[Any, Any] = {}


def _compiled(key: Any, build: Callable[[], Callable[..., Any]]) -> Any:
    """One jit for each key. Eager JAX costs 300 µs a call, this 6; under a trace it is transparent."""
    compiled = _COMPILED.get(key)
    if compiled is None:
        compiled = _COMPILED[key] = jax.jit(build())
    return compiled


def _run(operation: Operation, backend: Backend, arguments: tuple[Any, ...]) -> Any:
    """The generic implementation, compiled: arrays and the temperature are traced, all else is part of the program."""
    traced = {place: arguments[place] for place, _ in operation.operands if arguments[place] is not None}
    static = [None if place in traced else value for place, value in enumerate(arguments)][1:]
    static = [tuple(value) if isinstance(value, list) else value for value in static]

    def build() -> Callable[..., Any]:
        def generic(x: Array, traced: dict[int, Array]) -> Any:
            rest = (traced.get(place, value) for place, value in enumerate(static, start=1))
            return operation.generic(backend, x, *rest)

        return generic

    # the types too, because an axis of 1.0, which is an error, would find what was compiled for 1
    key = (operation.name, *map(type, static), *static)
    return _compiled(key, build)(arguments[0], traced)


def _refuse(name: str, why: str) -> Callable[..., str]:
    def guard(x: Array, axis: Any, *_: Any) -> str:
        return f"{name} {why}; under jit the generic formula is fused alike"

    return guard


def _logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    return jax.nn.logsumexp(x, axis, b=b, keepdims=keepdims, return_sign=return_sign, where=where)


def _softmax(x: Array, axis: Any, where: Any, *_: Any) -> Array:
    return jax.nn.softmax(x, axis, where=where)


def _log_softmax(x: Array, axis: Any, where: Any, *_: Any) -> Array:
    return jax.nn.log_softmax(x, axis, where=where)


def _raw_logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if dtype is not None:
        raise LookupError("jax.nn.logsumexp has no dtype; use path='auto' or 'generic'")
    key = ("raw", axis, keepdims, return_sign)
    function = _compiled(key, lambda: lambda x, where, b: _logsumexp(x, axis, where, b, None, keepdims, return_sign))
    return function(x, where, b)


def _raw_normalisation(native: Callable[..., Array]) -> Any:
    def raw(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
        if temperature is not None or dtype is not None:
            raise LookupError("jax.nn has no temperature or dtype here; use path='auto' or 'generic'")
        return _compiled(("raw", native, axis), lambda: lambda x, where: native(x, axis, where))(x, where)

    return raw


def _devices() -> tuple[str, ...]:
    # JAX's own name of a CPU is TFRT_CPU_0
    return tuple(f"cpu:{one.id}" if one.platform == "cpu" else str(one) for one in jax.devices())


def _device_of(x: Array) -> Any:
    """The device to which an array is bound; None for a tracer, a sharded array, and one that follows the others."""
    if isinstance(x, jax.core.Tracer) or not x.committed or len(x.devices()) > 1:
        return None
    return next(iter(x.devices()))


BACKEND = Backend(
    name="jax",
    arrays=("jax:Array", "jax.core:Tracer"),
    namespace=lambda x: jnp,
    devices=_devices,
    device_of=_device_of,
    stop_gradient=jax.lax.stop_gradient,
    may_look=lambda x: False,  # every call is traced
    run=_run,
    fast_paths=(
        FastPath(
            "logsumexp",
            "jax.nn.logsumexp",
            None,
            _refuse(
                "jax.nn.logsumexp", "has 0 for [0, -40] (jax#1205) and NaN for derivatives of dead rows (jax#6811)"
            ),
            _raw_logsumexp,
        ),
        FastPath(
            "softmax",
            "jax.nn.softmax",
            None,
            _refuse("jax.nn.softmax", "loses 17 ulp at 20 entries (measured), and halves, integers and dead rows"),
            _raw_normalisation(_softmax),
        ),
        FastPath(
            "log_softmax",
            "jax.nn.log_softmax",
            None,
            _refuse("jax.nn.log_softmax", "has 0 for the larger of [0, -40] (jax#1205)"),
            _raw_normalisation(_log_softmax),
        ),
    ),
)
