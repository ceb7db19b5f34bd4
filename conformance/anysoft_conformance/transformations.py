"""What frameworks do to functions (compile, batch, differentiate, export), as wrappers of a call.

A transformed call is judged as a plain one is: namespace, dtype, shape, special values and the contract. So a matrix of
functions and transformations is a dimension of the suite; what a backend cannot do stands among its known failures.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anysoft_conformance.corpus import CORE, Case
from anysoft_conformance.rows import Row
from anysoft_conformance.subject import Subject

Array = Any
Function = Callable[..., Any]

# The cases of the matrix, the first of them every day and the others in the full sweep: several rows, so that there is
# an axis beside the reduced one, and a mask, −inf or a tie where the function takes it. A function that is not here has
# the first case that it has, and the first with a mask.
_CASES: dict[str, tuple[str, ...]] = {
    "logsumexp": ("mask_broadcast_down", "some_absent", "dominated", "masked", "dead", "weights_mixed", "axis_middle"),
    "softmax": ("mask_broadcast_down", "some_absent", "moderate_at_0.3", "moderate_at_0.3_array", "axis_middle"),
    "log_softmax": ("mask_broadcast_down", "some_absent", "dominated", "moderate_at_0.3_array", "axis_middle"),
    "softmin": ("masked", "some_absent"),
    "log1mexp": ("matrix", "special", "large"),
    "log1pexp": ("matrix", "special", "zero"),
    "logexpm1": ("matrix", "special", "zero_of_value"),
    "sigmoid": ("matrix", "special", "switch"),
    "log_sigmoid": ("matrix", "special", "confident"),
    "logit": ("matrix", "special", "switches"),
    "logaddexp": ("broadcast", "special", "ties"),
    "logsubexp": ("broadcast", "special", "dominated"),
    "logmeanexp": ("mask_broadcast_down", "absent_first", "weights"),
    "logcumsumexp": ("columns", "absent_first", "running_reverse_exclusive"),
    "boltzmann": ("columns", "moderate", "cold", "at_a_number"),
    "log_partition": ("moderate", "ties", "cold"),
    "free_energy": ("columns", "moderate", "cold"),
    "mean_energy": ("moderate", "cold", "endless"),
    "gibbs_entropy": ("moderate", "ties", "cold"),
    "heat_capacity": ("moderate", "kept", "cold"),
    "condition_number": ("softmax_leading_at_0.25", "logsumexp_dead"),
    "error_bound": ("softmax_leading_at_0.25", "logsumexp_moderate"),
    "attention": ("masked_row", "masked_nan_blocks", "logsumexp_blocks", "heads_share_keys", "scale_of_queries"),
    "decoding.temperature": ("per_row", "masked", "columns"),
    "decoding.top_k": ("per_row", "masked", "ties"),
    "decoding.top_p": ("per_row", "masked", "ties"),
    "decoding.min_p": ("per_row", "masked", "ties"),
    "decoding.typical": ("per_row", "masked", "ties"),
    "sparsemax": ("mask_broadcast_down", "some_absent", "at_the_threshold"),
    "entmax": ("mask_broadcast_down", "some_absent", "alpha_1.25"),
    "categorical": ("shared_noise", "masked", "temperatures"),
    "gumbel_softmax": ("shared_noise", "masked_hard", "temperatures"),
    "gumbel_top_k": ("shared_noise", "masked", "temperatures"),
    "entropy": ("mask_broadcast_down", "some_absent", "moderate_at_0.3", "temperature_keeps_dtype"),
    "kl_divergence": ("broadcast", "absent", "masked", "close"),
    "js_divergence": ("masked", "absent", "close"),
    "categorical_log_prob": ("broadcast", "some_absent", "masked_dominated"),
    "cross_entropy": ("rows", "soft_absent", "soft_smoothed_weights", "with_logsumexp", "ignored", "z_loss"),
    "binary_cross_entropy": ("broadcast", "infinite", "sure"),
}
DTYPE = "float32"
# Whose derivatives are not had by differences: what speaks of errors, what has thresholds, and decoding.temperature,
# whose shift is a constant of differentiation.
ROUGH = frozenset({"condition_number", "error_bound", "sparsemax", "entmax", "decoding.temperature"})


@dataclass(frozen=True)
class Call:
    """A call about to be made: `arrays` are all of its arrays, those among the options too.

    `of` is the function of them alone. `positional` says how many are given by position, `names` what the others are
    called; `after` and `options` are what is no array.
    """

    row: Row
    function: Function
    arrays: tuple[Array, ...]
    positional: int
    names: tuple[str, ...]
    after: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of(self) -> Function:
        """The function of all arrays, by position."""
        function, n, names, after, options = self.function, self.positional, self.names, self.after, self.options

        def of_arrays(*arrays: Array) -> Any:
            return function(*arrays[:n], *after, **dict(zip(names, arrays[n:], strict=True)), **options)

        return of_arrays

    @property
    def of_x(self) -> Function:
        """The function of the first array alone."""
        of, rest = self.of, self.arrays[1:]
        return lambda x: of(x, *rest)

    @property
    def x(self) -> Array:
        """The first array."""
        return self.arrays[0]

    @property
    def others(self) -> tuple[Array, ...]:
        """Arrays like those of the call, that hold the same in another order."""
        flip = self.row.xp.flip
        if self.row.backend == "torch":
            return tuple(flip(array, tuple(range(array.ndim))) for array in self.arrays)
        return tuple(map(flip, self.arrays))


@dataclass(frozen=True)
class Transformation:
    """What a framework does to functions.

    Parameters
    ----------
    name : str
    apply : callable
        From a `Call` to its result, or with a `what` other than ``value`` to the derivative of the first array.
    what : {"value", "gradient", "hessian"}
    data : bool
        Whether the result holds any; otherwise only its shape and dtype are judged.
    functions : tuple of str
        The only ones that it is for; all if empty.
    daily : bool
        Whether the everyday run asks it of every function; otherwise of the three core ones.
    needs : callable, optional
        Whether a case has something to transform.
    """

    name: str
    apply: Callable[[Call], Any]
    what: Literal["value", "gradient", "hessian"] = "value"
    data: bool = True
    functions: tuple[str, ...] = ()
    daily: bool = False
    needs: Callable[[Case], bool] | None = None

    @property
    def of_all(self) -> bool:
        """Whether it is for every function, and every case."""
        return not self.functions and self.needs is None

    def asks(self, subject: Subject, case: Case, row: Row) -> bool:
        """Whether it is asked of a case on a row."""
        if row.dtype != DTYPE or (self.functions and subject.name not in self.functions):
            return False
        return case.name in names(subject) and (self.needs is None or self.needs(case))


def names(subject: Subject) -> tuple[str, ...]:
    """The cases of a function's transformations."""
    if subject.name in _CASES:
        return _CASES[subject.name]
    plain = [case for case in subject.cases if not (case.raises or case.full or case.at)]
    masked = [case for case in plain if "where" in case.options]
    return tuple(dict.fromkeys(case.name for case in (*plain[:1], *masked[:1])))


def of(backend: str) -> tuple[Transformation, ...]:
    """The transformations of a backend; none of one that has none."""
    return _OF.get(backend, ())


def _mapped(result: Any, take: Callable[[Array], Array]) -> Any:
    return tuple(map(take, result)) if isinstance(result, tuple) else take(result)


def _second(result: Any) -> Any:
    return _mapped(result, lambda one: one[1])


def _second_of_last(result: Any) -> Any:
    return _mapped(result, lambda one: one[..., 1])


def _place(array: Array, axis: int) -> int:
    """Where a new axis goes: `axis`, or the last place; never past it."""
    return int(array.ndim) if axis < 0 else min(axis, array.ndim)


# ---------------------------------------------------------------------------------------------------------------------
# JAX


def _jax() -> Any:
    return importlib.import_module("jax")


def _stacked(call: Call, axis: int = 0) -> tuple[tuple[Array, ...], tuple[int, ...]]:
    """Two problems, of which the call's is the second, along a new axis; and where that axis is in each array."""
    places = tuple(_place(array, axis) for array in call.arrays)
    stack, key = call.row.xp.stack, "dim" if call.row.backend == "torch" else "axis"
    pairs = zip(call.others, call.arrays, places, strict=True)
    return tuple(stack((other, array), **{key: place}) for other, array, place in pairs), places


def _jit_static(call: Call) -> Any:
    """What is no array is an argument too, one that is part of the program."""
    first, last = call.positional, call.positional + len(call.after)
    compiled = _jax().jit(call.function, static_argnums=tuple(range(first, last)), static_argnames=tuple(call.options))
    return compiled(*call.arrays[:first], *call.after, **_named(call), **call.options)


def _named(call: Call) -> dict[str, Array]:
    return dict(zip(call.names, call.arrays[call.positional :], strict=True))


def _jit_donated(call: Call) -> Any:
    copies = tuple(call.row.xp.array(array, copy=True) for array in call.arrays)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")  # the result is smaller
        return _jax().jit(call.of, donate_argnums=tuple(range(len(copies))))(*copies)


def _jit_weak(call: Call) -> Any:
    """Python's numbers are traced: they are weakly typed, and must not widen the result."""
    numbers = {name: value for name, value in call.options.items() if isinstance(value, float)}
    rest = {name: value for name, value in call.options.items() if name not in numbers}

    def of_numbers(numbers: dict[str, Any], arrays: tuple[Array, ...], named: dict[str, Array]) -> Any:
        return call.function(*arrays, *call.after, **numbers, **named, **rest)

    return _jax().jit(of_numbers)(numbers, call.arrays[: call.positional], _named(call))


def _has_temperature(case: Case) -> bool:
    return isinstance(case.options.get("temperature"), float)


def _jax_vmap(axis: int) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        arrays, places = _stacked(call, axis)
        mapped = _jax().vmap(call.of, in_axes=places, out_axes=-1 if axis < 0 else 0)(*arrays)
        return _second_of_last(mapped) if axis < 0 else _second(mapped)

    return apply


def _jax_nested(call: Call) -> Any:
    jax, arrays = _jax(), _stacked(call)[0]
    return _second(jax.jit(jax.vmap(jax.jit(call.of)))(*arrays))


def _jax_vmap_twice(call: Call) -> Any:
    jax = _jax()
    arrays = tuple(call.row.xp.stack((pair, pair)) for pair in _stacked(call)[0])
    return _second(_second(jax.vmap(jax.vmap(call.of))(*arrays)))


def _scan(call: Call) -> Any:
    of = call.of
    _, results = _jax().lax.scan(lambda carry, arrays: (carry + 1, of(*arrays)), 0, _stacked(call)[0])
    return _second(results)


def _while_loop(call: Call) -> Any:
    """A loop that makes the call twice."""
    jax, of, arrays = _jax(), call.of, call.arrays
    empty = jax.tree.map(lambda one: call.row.xp.zeros(one.shape, one.dtype), jax.eval_shape(of, *arrays))
    _, result = jax.lax.while_loop(lambda state: state[0] < 2, lambda state: (state[0] + 1, of(*arrays)), (0, empty))
    return result


def _shard_map(call: Call) -> Any:
    """On a mesh of the one device, two problems along its axis."""
    jax = _jax()
    arrays, _ = _stacked(call)
    mesh = jax.sharding.Mesh(list(call.x.devices()), ("problems",))
    spec = jax.sharding.PartitionSpec("problems")
    mapped = jax.jit(jax.shard_map(jax.vmap(call.of), mesh=mesh, in_specs=spec, out_specs=spec))(*arrays)
    (device,) = call.x.devices()
    return _mapped(mapped, lambda one: jax.device_put(one, device)[1])


def _jax_export(call: Call) -> Any:
    """Serialised, read again and called on arrays that the export has not seen."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise LookupError("jax.export serialises with flatbuffers, which is not installed; pip install flatbuffers")
    jax, export = _jax(), importlib.import_module("jax.export")
    exported = export.export(jax.jit(call.of))(*call.others)
    return export.deserialize(exported.serialize()).call(*call.arrays)


def _basis(call: Call, like: Array) -> list[Array]:
    """The unit vectors of the shape of an array."""
    n, dtype = math.prod(like.shape), str(like.dtype).rpartition(".")[2]
    return [call.row.array(one.reshape(like.shape), dtype) for one in np.eye(n)]


def _columns(call: Call, columns: list[Array]) -> Array:
    """A Jacobian from the derivatives in the directions of the basis."""
    stack = functools.partial(call.row.xp.stack, **{"dim" if call.row.backend == "torch" else "axis": -1})
    return stack(columns).reshape(*columns[0].shape, *call.x.shape)


def _rows(call: Call, pullback: Callable[[Array], Array], value: Array) -> Array:
    """A Jacobian from what a pullback makes of each unit vector of the result."""
    rows = [pullback(one) for one in _basis(call, value)]
    return call.row.xp.stack(rows).reshape(*value.shape, *call.x.shape)


def _jax_jvp(call: Call) -> Array:
    of = call.of_x
    return _columns(call, [_jax().jvp(of, (call.x,), (one,))[1] for one in _basis(call, call.x)])


def _jax_linearize(call: Call) -> Array:
    tangent = _jax().linearize(call.of_x, call.x)[1]
    return _columns(call, [tangent(one) for one in _basis(call, call.x)])


def _jax_vjp(call: Call) -> Array:
    value, pullback = _jax().vjp(call.of_x, call.x)
    return _rows(call, lambda one: pullback(one)[0], value)


def _jax_grad(outer: Callable[[Any, Function], Function]) -> Callable[[Call], Any]:
    """The gradient of each entry of the result, all at once."""

    def apply(call: Call) -> Array:
        jax, of = _jax(), call.of_x
        shape = jax.eval_shape(of, call.x).shape
        gradient = jax.grad(lambda x, place: of(x).reshape(-1)[place])
        mapped = outer(jax, jax.vmap(gradient, in_axes=(None, 0)))
        return mapped(call.x, jax.numpy.arange(math.prod(shape))).reshape(*shape, *call.x.shape)

    return apply


def _through_scan(jax: Any, of: Function) -> Function:
    return lambda x: jax.lax.scan(lambda carry, one: (carry, of(one)), 0, jax.numpy.stack((x, x)))[1][1]


def _jax_of(*orders: str, around: Callable[[Any, Function], Function] = lambda jax, of: of) -> Callable[[Call], Any]:
    """`jacfwd` and `jacrev`, one after the other, the last first."""

    def apply(call: Call) -> Array:
        jax = _jax()
        function = around(jax, call.of_x)
        for order in reversed(orders):
            function = getattr(jax, order)(function)
        return function(call.x)

    return apply


def _vmapped_hessian(module: str) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        home: Any = importlib.import_module(module)
        pair = call.row.xp.stack((call.others[0], call.x))
        return home.vmap(home.hessian(call.of_x))(pair)[1]

    return apply


_JAX = (
    Transformation("jit", lambda call: _jax().jit(call.of)(*call.arrays), daily=True),
    Transformation("jit-static", _jit_static),
    Transformation("jit-donated", _jit_donated),
    Transformation("jit-weak", _jit_weak, needs=_has_temperature),
    Transformation("vmap-first", _jax_vmap(0), daily=True),
    Transformation("vmap-second", _jax_vmap(1)),
    Transformation("vmap-last", _jax_vmap(-1)),
    Transformation("vmap-vmap", _jax_vmap_twice),
    Transformation("jit-vmap-jit", _jax_nested),
    Transformation("scan", _scan),
    Transformation("while_loop", _while_loop),
    Transformation("checkpoint", lambda call: _jax().checkpoint(call.of)(*call.arrays)),
    Transformation("shard_map", _shard_map),
    Transformation("export", _jax_export),
    Transformation("eval_shape", lambda call: _jax().eval_shape(call.of, *call.arrays), data=False, daily=True),
    Transformation("grad", _jax_grad(lambda jax, of: of), "gradient"),
    Transformation("jit-grad", _jax_grad(lambda jax, of: jax.jit(of)), "gradient"),
    Transformation("jacrev", _jax_of("jacrev"), "gradient"),
    Transformation("jacfwd", _jax_of("jacfwd"), "gradient", daily=True),
    Transformation("jvp", _jax_jvp, "gradient"),
    Transformation("vjp", _jax_vjp, "gradient"),
    Transformation("linearize", _jax_linearize, "gradient"),
    Transformation("checkpoint-jacrev", _jax_of("jacrev", around=lambda jax, of: jax.checkpoint(of)), "gradient"),
    Transformation("scan-jacrev", _jax_of("jacrev", around=_through_scan), "gradient"),
    Transformation("hessian", _jax_of("hessian"), "hessian"),
    Transformation("jacrev-jacrev", _jax_of("jacrev", "jacrev"), "hessian"),
    Transformation("jacrev-jacfwd", _jax_of("jacrev", "jacfwd"), "hessian"),
    Transformation("jacfwd-jacfwd", _jax_of("jacfwd", "jacfwd"), "hessian"),
    Transformation("vmap-hessian", _vmapped_hessian("jax"), "hessian"),
)


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


def _torch() -> Any:
    return importlib.import_module("torch")


def _compile(**options: Any) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        return _compiled(call.of, **options)(*call.arrays)

    return apply


def _compiled(function: Function, **options: Any) -> Function:
    torch = _torch()
    torch.compiler.reset()  # each function is compiled for the first time
    compiled: Function = torch.compile(function, fullgraph=True, **options)
    return compiled


def _torch_vmap(axis: int) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        arrays, places = _stacked(call, axis)
        mapped = _torch().func.vmap(call.of, in_dims=places, out_dims=-1 if axis < 0 else 0)(*arrays)
        return _second_of_last(mapped) if axis < 0 else _second(mapped)

    return apply


def _torch_vmap_twice(call: Call) -> Any:
    torch = _torch()
    arrays = tuple(torch.stack((pair, pair)) for pair in _stacked(call)[0])
    return _second(_second(torch.func.vmap(torch.func.vmap(call.of))(*arrays)))


def _compile_vmap(call: Call) -> Any:
    mapped = _compiled(_torch().func.vmap(call.of), backend="aot_eager")
    return _second(mapped(*_stacked(call)[0]))


def _torch_export(*, strict: bool) -> Callable[[Call], Any]:
    """Exported for arrays that are not the call's."""

    def apply(call: Call) -> Any:
        torch, of = _torch(), call.of

        class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, *arrays: Array) -> Any:
                return of(*arrays)

        return torch.export.export(Module(), call.others, strict=strict).module()(*call.arrays)

    return apply


def _make_fx(call: Call) -> Any:
    """Traced on arrays that are not the call's."""
    make_fx = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
    return make_fx(call.of)(*call.others)(*call.arrays)


def _jit_trace(call: Call) -> Any:
    torch = _torch()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that lengths are taken for constants
        return torch.jit.trace(call.of, call.others, check_trace=False)(*call.arrays)


def _fake(call: Call) -> Any:
    mode = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode()
    with mode:
        return _on(call.row.device, call.of(*map(mode.from_tensor, call.arrays)))


def _meta(call: Call) -> Any:
    return _on("meta", call.of(*(array.to("meta") for array in call.arrays)))


def _on(device: str, result: Any) -> Any:
    """A result whose device is right."""
    for one in result if isinstance(result, tuple) else (result,):
        if str(one.device) != device:
            raise RuntimeError(f"the result is on {one.device} and the input on {device}")
    return result


def _autocast(call: Call) -> Any:
    torch = _torch()
    with torch.autocast(call.x.device.type, dtype=torch.bfloat16):
        return call.of(*call.arrays)


def _inference(call: Call) -> Any:
    with _torch().inference_mode():
        return call.of(*(array.clone() for array in call.arrays))


def _backward(call: Call) -> Array:
    x = call.x.detach().clone().requires_grad_()
    value = call.of_x(x)

    def pullback(one: Array) -> Array:
        x.grad = None
        value.backward(one, retain_graph=True)
        return x.grad

    return _rows(call, pullback, value)


def _compiled_backward(call: Call) -> Array:
    x = call.x.detach().clone().requires_grad_()
    value = _compiled(call.of_x, backend="aot_eager")(x)
    return _rows(call, lambda one: _torch().autograd.grad(value, x, one, retain_graph=True)[0], value)


def _compiled_jacrev(call: Call) -> Array:
    return _compiled(_torch().func.jacrev(call.of_x), backend="aot_eager")(call.x)


def _vmap_vjp(call: Call) -> Array:
    """All pullbacks at once, by a batch of cotangents."""
    torch = _torch()
    x = call.x.detach().clone().requires_grad_()
    value = call.of_x(x)
    n = value.numel()
    eye = torch.eye(n, dtype=value.dtype, device=value.device).reshape(n, *value.shape)
    (rows,) = torch.autograd.grad(value, x, eye, is_grads_batched=True)
    return rows.reshape(*value.shape, *x.shape)


def _torch_vjp(call: Call) -> Array:
    value, pullback = _torch().func.vjp(call.of_x, call.x)
    return _rows(call, lambda one: pullback(one)[0], value)


def _torch_jvp(call: Call) -> Array:
    of = call.of_x
    return _columns(call, [_torch().func.jvp(of, (call.x,), (one,))[1] for one in _basis(call, call.x)])


def _torch_linearize(call: Call) -> Array:
    with warnings.catch_warnings():  # PyTorch's own graph holds constants that it warns of itself
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node", UserWarning)
        tangent = _torch().func.linearize(call.of_x, call.x)[1]
    return _columns(call, [tangent(one) for one in _basis(call, call.x)])


def _forward_ad(call: Call) -> Array:
    """Dual numbers, without torch.func."""
    forward_ad = importlib.import_module("torch.autograd.forward_ad")
    of = call.of_x
    columns = []
    for one in _basis(call, call.x):
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(of(forward_ad.make_dual(call.x, one))).tangent
            columns.append(one.new_zeros(of(call.x).shape) if tangent is None else tangent)
    return _columns(call, columns)


def _torch_of(*orders: str) -> Callable[[Call], Any]:
    """`jacfwd` and `jacrev`, one after the other, the last first."""

    def apply(call: Call) -> Array:
        func: Any = _torch().func
        function = call.of_x
        for order in reversed(orders):
            function = getattr(func, order)(function)
        return function(call.x)

    return apply


_TORCH = (
    Transformation("compile", _compile(backend="aot_eager"), daily=True),
    Transformation("compile-dynamic", _compile(backend="aot_eager", dynamic=True)),
    Transformation("compile-inductor", _compile(backend="inductor"), functions=CORE),
    Transformation("compile-vmap", _compile_vmap),
    Transformation("vmap-first", _torch_vmap(0), daily=True),
    Transformation("vmap-second", _torch_vmap(1), daily=True),
    Transformation("vmap-last", _torch_vmap(-1), daily=True),
    Transformation("vmap-vmap", _torch_vmap_twice, daily=True),
    Transformation("functionalize", lambda call: _torch().func.functionalize(call.of)(*call.arrays), daily=True),
    Transformation("export", _torch_export(strict=False)),
    Transformation("export-strict", _torch_export(strict=True)),
    Transformation("make_fx", _make_fx, daily=True),
    Transformation("jit.trace", _jit_trace, daily=True),
    Transformation("fake", _fake, data=False, daily=True),
    Transformation("meta", _meta, data=False, daily=True),
    Transformation("autocast", _autocast, daily=True),
    Transformation("inference_mode", _inference, daily=True),
    Transformation("backward", _backward, "gradient", daily=True),
    Transformation("vmap-vjp", _vmap_vjp, "gradient", daily=True),
    Transformation("compile-backward", _compiled_backward, "gradient"),
    Transformation("compile-jacrev", _compiled_jacrev, "gradient"),
    Transformation("jacrev", _torch_of("jacrev"), "gradient", daily=True),
    Transformation("jacfwd", _torch_of("jacfwd"), "gradient", daily=True),
    Transformation("jvp", _torch_jvp, "gradient", daily=True),
    Transformation("vjp", _torch_vjp, "gradient", daily=True),
    Transformation("linearize", _torch_linearize, "gradient"),
    Transformation("forward_ad", _forward_ad, "gradient", daily=True),
    Transformation("hessian", _torch_of("hessian"), "hessian", daily=True),
    Transformation("jacrev-jacrev", _torch_of("jacrev", "jacrev"), "hessian", daily=True),
    Transformation("jacrev-jacfwd", _torch_of("jacrev", "jacfwd"), "hessian", daily=True),
    Transformation("jacfwd-jacfwd", _torch_of("jacfwd", "jacfwd"), "hessian", daily=True),
    Transformation("vmap-hessian", _vmapped_hessian("torch.func"), "hessian", daily=True),
)


# ---------------------------------------------------------------------------------------------------------------------
# array_api_strict: versions of the standard, with nothing whose shape depends on data


def _strict(version: str) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        flags = {"boolean_indexing": False, "data_dependent_shapes": False, "enabled_extensions": ()}
        with importlib.import_module("array_api_strict").ArrayAPIStrictFlags(api_version=version, **flags):
            return call.of(*call.arrays)

    return apply


_STRICT = tuple(Transformation(version, _strict(version), daily=True) for version in ("2023.12", "2024.12", "2025.12"))

# ---------------------------------------------------------------------------------------------------------------------
# Dask


def _forbidden(*_: Any, **__: Any) -> Any:
    raise RuntimeError("something was computed while the call was made")


def _lazy(call: Call) -> Any:
    """Nothing is computed before somebody asks for it."""
    with importlib.import_module("dask").config.set(scheduler=_forbidden):
        return call.of(*call.arrays)


def _chunked(*sizes: int) -> Callable[[Call], Any]:
    """In chunks of these sizes, one after the other, along every axis."""

    def chunks(length: int) -> tuple[int, ...]:
        found: list[int] = []
        while (rest := length - sum(found)) > 0:
            found.append(min(sizes[len(found) % len(sizes)], rest))
        return tuple(found) or (0,)

    def apply(call: Call) -> Any:
        return call.of(*(array.rechunk(tuple(map(chunks, array.shape))) for array in call.arrays))

    return apply


def _unknown_chunks(call: Call) -> Any:
    """The length of the first axis is not known, as after a choice by values."""
    da = importlib.import_module("dask.array")

    def unknown(array: Array) -> Array:
        if call.x.ndim < 2 or array.ndim == 0 or array.shape[0] != call.x.shape[0]:
            return array  # the same for all rows
        return array[da.ones(array.shape[0], dtype=bool, chunks=(array.chunks[0],))]

    with importlib.import_module("dask").config.set(scheduler=_forbidden):
        result = call.of(*map(unknown, call.arrays))
    with np.errstate(all="ignore"):  # which NumPy's arrays are computed in
        return _mapped(result, lambda one: one.compute_chunk_sizes())


_DASK = (
    Transformation("lazy", _lazy, daily=True),
    Transformation("chunks-of-one", _chunked(1), daily=True),
    Transformation("uneven-chunks", _chunked(1, 2), daily=True),
    Transformation("unknown-chunks", _unknown_chunks, daily=True),
)

_OF = {"jax": _JAX, "torch": _TORCH, "array_api_strict": _STRICT, "dask": _DASK}
