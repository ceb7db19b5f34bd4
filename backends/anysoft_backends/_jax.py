"""JAX: every call is one cached jit; its own functions give the value where they keep the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from anysoft import registry
from anysoft.registry import Backend, FastPath, Operation

Array = Any

_WIDE = (jnp.dtype("float32"), jnp.dtype("float64"))
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
    static = [None if place in traced else value for place, value in enumerate(arguments)]
    static[1] = tuple(static[1]) if isinstance(static[1], list) else static[1]

    def build() -> Callable[..., Any]:
        def generic(x: Array, traced: dict[int, Array]) -> Any:
            rest = (traced.get(place, value) for place, value in enumerate(static[1:], start=1))
            return operation.generic(backend, x, *rest)

        return generic

    return _compiled((operation.name, *static[1:]), build)(arguments[0], traced)


def _guard(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    """For all three: `option` is b or temperature, `reduction` what only a reduction has."""
    if x.dtype not in _WIDE:
        return (
            f"jax's own is taken for float32 and float64; it sums halves in halves and wraps integers, here {x.dtype}"
        )
    if where is not None or option is not None or (reduction and reduction[1]):
        return "jax's own is taken without where, b, temperature and return_sign (derivatives: jax#6811, jax#22398)"
    if dtype is not None:
        return f"jax's own would round to {dtype} at the end of a computation in {x.dtype}"
    shape = x.shape
    if axis.__class__ is not int or 0 in shape or not -len(shape) <= axis < len(shape):
        return "jax's own is taken for one axis of an array with elements"
    return True


def _guard_softmax(x: Array, axis: Any, *options: Any) -> bool | str:
    verdict = _guard(x, axis, *options)
    if verdict is True and x.shape[axis] > 512:
        return "jax.nn.softmax breaks the contract on rows this long: its shift costs up to 10 ulp (measured)"
    return verdict


def _with_generic_derivative(
    operation: str, native: Callable[..., Array], holds: Callable[[Array], Array] | None
) -> Any:
    """`native` for the value, certified by `holds`; the generic implementation for derivatives of every order and mode.

    A certificate is a `lax.cond` on one number; where it fails, the generic implementation gives the value too.
    """

    def call(x: Array, axis: int, *options: Any) -> Any:
        return _compiled((native, axis, *options), lambda: certified(axis, options))(x)

    def certified(axis: int, options: tuple[Any, ...]) -> Callable[[Array], Array]:
        def generic(x: Array) -> Array:
            return registry.generic(operation)(BACKEND, x, axis, *options)

        @jax.custom_jvp
        def value(x: Array) -> Array:
            answer = native(x, axis, *options)
            return answer if holds is None else jax.lax.cond(holds(answer), lambda: answer, lambda: generic(x))

        value.defjvp(lambda primals, tangents: jax.jvp(generic, primals, tangents))
        return value

    return call


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


def _far_from_zero(value: Array) -> Array:
    return jnp.all(~(jnp.abs(value) < 0.5))  # log of a sum near 1 has lost its digits


def _no_row_dominated(value: Array) -> Array:
    return jnp.all(~(value > -0.5))  # such an entry is minus the log of a sum near 1 (jax#1205)


def _devices() -> tuple[str, ...]:
    return tuple(str(device) for device in jax.devices())


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
    run=_run,
    fast_paths=(
        FastPath(
            "logsumexp",
            "jax.nn.logsumexp",
            _with_generic_derivative("logsumexp", _logsumexp, _far_from_zero),
            _guard,
            _raw_logsumexp,
        ),
        FastPath(
            "softmax",
            "jax.nn.softmax",
            _with_generic_derivative("softmax", _softmax, None),
            _guard_softmax,
            _raw_normalisation(_softmax),
        ),
        FastPath(
            "log_softmax",
            "jax.nn.log_softmax",
            _with_generic_derivative("log_softmax", _log_softmax, _no_row_dominated),
            _guard,
            _raw_normalisation(_log_softmax),
        ),
    ),
)
