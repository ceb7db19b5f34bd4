"""JAX: every call is one cached jit, of plain rows in single passes or of the generic implementation.

Its own functions are there for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from anysoft.registry import Backend, FastPath, Operation, containers
from anysoft_backends import _jax_rows as rows

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


def _under(path: str) -> AbstractContextManager[Any]:
    """The path as metadata of the program: that is part of the key under which every jit remembers what it traced."""
    context: Any = set_xla_metadata
    return context(anysoft_path=None if path == "auto" else path)  # type: ignore[no-any-return]


def _refuse(name: str, why: str) -> Callable[..., str]:
    def guard(x: Array, axis: Any, *_: Any) -> str:
        return f"{name} {why}; under jit ours is fused alike"

    return guard


_IS_KNOWN = jax.__version_info__ >= (0, 10)
_FLOATS = tuple(map(jnp.dtype, ("float32", "float64", "bfloat16", "float16")))


def _guard_rows(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    """`option` is b or a temperature, `reduction` keepdims and return_sign."""
    if where is not None or option is not None or dtype is not None or reduction[1:] == (True,):
        return "this path has no where, b, temperature, dtype or return_sign"
    if not _IS_KNOWN:
        return "how XLA sums before JAX 0.10 was not measured"
    if jax.default_backend() != "cpu":
        return "the condition looks whether rows need more, and for such a look XLA may wait for the device"
    if x.dtype not in _FLOATS:
        return f"this path is for floating dtypes, not {x.dtype}"
    if not x.size or not x.ndim:
        return "this path is for rows with entries"
    if axis is None or (axis.__class__ is int and -x.ndim <= axis < x.ndim):
        return True
    return f"the axis {axis!r} is left to the generic formula"


def _of_rows(function: Callable[[Array, tuple[int, ...]], Array]) -> Any:
    """In float32 at least, and through one cached jit, as every call."""

    def call(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> Array:
        def build() -> Callable[[Array], Array]:
            def of_rows(x: Array) -> Array:
                axes = tuple(range(x.ndim)) if axis is None else (axis % x.ndim,)
                value = function(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axes).astype(x.dtype)
                return jnp.squeeze(value, axes) if reduction[:1] == (False,) else value

            return of_rows

        return _compiled(("rows", function, axis, *reduction[:1]), build)(x)

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


def _raw_elementwise(native: Callable[..., Array]) -> Any:
    def raw(*arrays: Array) -> Array:
        return _compiled(("raw", native), lambda: native)(*arrays)

    return raw


def _raw_logcumsumexp(x: Array, axis: int, dtype: Any, reverse: bool, exclusive: bool) -> Array:
    if dtype is not None or exclusive:
        raise LookupError("jax.lax.cumlogsumexp has no dtype or exclusive; use path='auto' or 'generic'")
    key = ("raw", "cumlogsumexp", axis, reverse)
    return _compiled(key, lambda: lambda x: jax.lax.cumlogsumexp(x, axis % x.ndim, reverse))(x)


def _raw_logmeanexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool) -> Array:
    if b is not None or dtype is not None:
        raise LookupError("jax.nn.logmeanexp has no b or dtype; use path='auto' or 'generic'")
    key = ("raw", "logmeanexp", axis, keepdims)
    return _compiled(key, lambda: lambda x, where: jax.nn.logmeanexp(x, axis, where, keepdims))(x, where)


def _for_comparison(operation: str, name: str, raw: Any) -> FastPath:
    def refuse(*_: Any) -> str:
        return f"{name} is for comparison; under jit ours is fused alike"

    return FastPath(operation, name, None, refuse, raw)


def _raw_attention(
    q: Array, k: Array, v: Array, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> Array:
    if block_size is not None or return_logsumexp or v.shape != k.shape:
        raise LookupError(
            "jax.nn.dot_product_attention has no block_size, no natural logsumexp and no width of the values; "
            "use path='auto' or 'generic'"
        )

    own: Any = jax.nn.dot_product_attention

    def native(q: Array, k: Array, v: Array, where: Any, scale: Any) -> Array:
        # its layout is (batch, length, heads, width), and that of its mask (batch, heads, queries, keys)
        batch = jnp.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        whole = (jnp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (q, k, v))
        moved = (x.reshape(-1, x.shape[-2], 1, x.shape[-1]) for x in whole)
        if where is not None:
            where = jnp.broadcast_to(where, (*batch, q.shape[-2], k.shape[-2]))
            where = where.reshape(-1, 1, *where.shape[-2:])
        return own(*moved, mask=where, scale=scale).reshape(*batch, *q.shape[-2:])

    return _compiled(("raw attention",), lambda: native)(q, k, v, where, scale)


def _devices() -> tuple[str, ...]:
    # JAX's own name of a CPU is TFRT_CPU_0
    return tuple(f"cpu:{one.id}" if one.platform == "cpu" else str(one) for one in jax.devices())


def _device_of(x: Array) -> Any:
    """The device to which an array is bound; None for a tracer, a sharded array, and one that follows the others."""
    if isinstance(x, jax.core.Tracer) or not x.committed or len(x.devices()) > 1:
        return None
    return next(iter(x.devices()))


@jax.custom_jvp
def _displacement(x: Array) -> Array:
    """XLA would compute x − x, and what x is the sum of, also where nobody differentiates."""
    return jnp.zeros_like(x)


@_displacement.defjvp
def _displaced(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _displacement(*primals), tangents[0]


def _is_explicit(x: Array) -> bool:
    """Whether the type of an array says how it is sharded: JAX then refuses to index along an axis that is."""
    if not hasattr(jax, "typeof"):  # JAX before 0.6
        return False
    sharding = getattr(jax.typeof(x), "sharding", None)
    return any(each is not None for each in getattr(sharding, "spec", ()))


def _largest(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    keys, index = jax.lax.top_k(jnp.moveaxis(x, axis, -1), k)
    return jnp.moveaxis(keys, -1, axis), jnp.moveaxis(index, -1, axis)


def _random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
    if rng is None:
        raise TypeError("JAX has no random state of its own: rng must be a key, such as jax.random.key(0), or a seed")
    bits = _compiled(("bits", shape), lambda: lambda key: jax.random.bits(key, shape, "uint32"))(_key(rng))
    return bits if device is None else jax.device_put(bits, device)


def _key(rng: Any) -> Array:
    if isinstance(rng, int):
        return jax.random.key(rng)
    if isinstance(rng, jax.Array):
        if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) or (rng.dtype == jnp.uint32 and rng.ndim == 1):
            return rng
        if rng.ndim == 0 and jnp.issubdtype(rng.dtype, jnp.integer):  # a seed that is traced
            return jax.random.key(rng)
    raise TypeError(f"rng must be a key of JAX, such as jax.random.key(0), or an integer seed here, not {rng!r}")


for _container in containers:
    jax.tree_util.register_pytree_node_class(_container)

BACKEND = Backend(
    name="jax",
    arrays=("jax:Array", "jax.core:Tracer"),
    namespace=lambda x: jnp,
    devices=_devices,
    device_of=_device_of,
    stop_gradient=jax.lax.stop_gradient,
    displacement=_displacement,
    # over how many devices an axis is sharded nobody knows under a trace
    blocks=lambda x, axis: math.gcd(x.shape[axis], jax.device_count()),
    gathers=lambda x, axis: not _is_explicit(x),
    unrolls=lambda: True,
    # written out, XLA computes each step once more for each use that the next makes of it
    repeat=lambda n, step, state: jax.lax.fori_loop(0, n, lambda _, each: step(each), state),
    random_bits=_random_bits,
    may_look=lambda x: False,  # every call is traced
    run=_run,
    under=_under,
    fast_paths=(
        FastPath("largest", "jax.lax.top_k", _largest),
        *(
            FastPath(name, "rows in single passes", _of_rows(getattr(rows, name)), _guard_rows)
            for name in ("logsumexp", "softmax", "log_softmax")
        ),
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
        _for_comparison("logaddexp", "jax.numpy.logaddexp", _raw_elementwise(jnp.logaddexp)),
        _for_comparison("sigmoid", "jax.nn.sigmoid", _raw_elementwise(jax.nn.sigmoid)),
        _for_comparison("log_sigmoid", "jax.nn.log_sigmoid", _raw_elementwise(jax.nn.log_sigmoid)),
        _for_comparison("log1pexp", "jax.nn.softplus", _raw_elementwise(jax.nn.softplus)),
        _for_comparison("log1mexp", "jax.nn.log1mexp", _raw_elementwise(lambda x: jax.nn.log1mexp(-x))),
        _for_comparison("logit", "jax.scipy.special.logit", _raw_elementwise(jax.scipy.special.logit)),
        _for_comparison("logmeanexp", "jax.nn.logmeanexp", _raw_logmeanexp),
        _for_comparison("logcumsumexp", "jax.lax.cumlogsumexp", _raw_logcumsumexp),
        FastPath(
            "attention",
            "jax.nn.dot_product_attention",
            None,
            _refuse(
                "jax.nn.dot_product_attention",
                "holds all scores, gives a query that sees nothing the mean of all values, and looks at masked NaN",
            ),
            _raw_attention,
        ),
    ),
)
