"""PyTorch: its fused kernels where they keep the contract, without autograd; else ours, on the CPU and on CUDA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from anysoft.registry import Backend, FastPath, containers
from anysoft_backends import (
    _torch_attention,
    _torch_dtensor,
    _torch_elementwise,
    _torch_entropy,
    _torch_losses,
    _torch_sampling,
)
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import (
    fits_kernel,
    is_compiling,
    may_look,
    may_look_at,
    only,
    stop_gradient,
    transforms,
    usual,
    why_no_derivative,
    why_no_kernel,
    why_no_triton,
    why_not,
)

Array = Any
# what a guard asks of the kernel that it guards: its last argument, which no call of it has
Why = Callable[[Array, int], bool | str]


def _guard_logsumexp(
    x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool, why: Why = why_no_kernel
) -> bool | str:
    axis = 0 if axis is None else axis
    plain = where is None and b is None and dtype is None and not return_sign
    if plain and why is why_no_kernel and fits_kernel(x, axis):
        return True
    if not plain or not (usual(x, axis) and may_look()):
        return why_not(x, axis, where, b, dtype, return_sign)
    return why(x, axis)


def _guard_softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None or dtype is not None or not usual(x, axis):
        return why_not(x, axis, where, temperature, dtype)
    if x.dtype in kernels.WIDE and (x.is_cpu or (x.numel() > kernels.LANES and x.shape[axis] > kernels.LANES)):
        return "torch.softmax breaks the contract: with AVX-512 near 1, on long rows everywhere (67 ulp at 300 entries)"
    if x.is_cuda and x.dtype not in kernels.WIDE and why_no_triton(x, axis) is True:
        return "of halves torch.softmax is taken in float32, which writes and reads three times the bytes"
    return True


def _guard_softmax_kernel(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if x.dtype not in kernels.WIDE:
        return "this path is for float32 and float64: torch.softmax in float32 does for halves"
    return _guard_kernel(x, axis, where, temperature, dtype)


def _guard_kernel(
    x: Array, axis: Any, where: Any, temperature: Any, dtype: Any, why: Why = why_no_kernel
) -> bool | str:
    plain = where is None and temperature is None and dtype is None
    if plain and why is why_no_kernel and fits_kernel(x, axis):
        return True
    if not plain or not (usual(x, axis) and may_look()):
        return why_not(x, axis, where, temperature, dtype)
    return why(x, axis)


def _guard_sums(x: Array, axes: tuple[int, ...]) -> bool | str:
    if len(axes) == 1:
        return _guard_kernel(x, axes[0], None, None, None)
    if len(axes) < x.ndim:
        return f"the kernel takes one axis or all, not {axes}"
    return _guard_kernel(x, 0, None, None, None)


def _sums(x: Array, axes: tuple[int, ...]) -> Any:
    if len(axes) == 1:
        return kernels.sums(x, axes[0])
    return tuple(each.reshape((1,) * x.ndim) for each in kernels.sums(x.reshape(-1), 0))


def _guard_derivative(
    x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any, why: Why = why_no_derivative
) -> bool | str:
    """The written derivatives are for plain reverse mode; torch.func and forward mode take the generic formula's."""
    return_sign = bool(reduction and reduction[1])
    axis = 0 if axis is None and reduction else axis
    if where is not None or option is not None or dtype is not None or return_sign or axis.__class__ is not int:
        return why_not(x, axis, where, option, dtype, return_sign)
    if is_compiling() or not may_look() or (x.__class__ is not torch.Tensor and x.__class__ is not torch.nn.Parameter):
        return why_not(x, axis, where, option, dtype)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return "there is nothing to differentiate"
    if transforms() is not None or forward_ad._current_level >= 0:
        return "torch.func's transforms and forward mode take the derivatives of the generic formula"
    return why(x, axis)


def _refuse_log_softmax(x: Array, axis: Any, *_: Any) -> str:
    return "torch.log_softmax([0, -40]) has 0 where -4.2e-18 is right (pytorch#113708)"


def _logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Array:
    if where is not None or b is not None or dtype is not None or return_sign:
        return NotImplemented
    if not fits_kernel(x, 0 if axis is None else axis):
        return NotImplemented
    if axis is None and x.ndim > 1:
        value = _logsumexp(x.reshape(-1), 0, None, None, None, False, False)
        return value.reshape((1,) * x.ndim) if keepdims else value
    axis = axis or 0
    if x.dtype in kernels.WIDE:
        return kernels.logsumexp(x, axis, keepdims)
    return kernels.logsumexp(x.float(), axis, keepdims).to(x.dtype)


def _differentiable_logsumexp(x: Array, axis: Any, where: None, b: None, dtype: None, keepdims: bool, *_: Any) -> Array:
    value = kernels.apply(kernels.LogSumExp, x.reshape(-1) if axis is None else x, axis or 0)
    if axis is None:
        return value.reshape((1,) * x.ndim if keepdims else ())
    return value if keepdims else value.squeeze(axis)


def _softmax(x: Array, axis: int, *_: Any) -> Array:
    if x.dtype in kernels.WIDE:
        return torch.softmax(x, axis)
    return torch.softmax(x, axis, dtype=torch.float32).to(x.dtype)


def _softmax_kernel(x: Array, axis: int, where: Any, temperature: Any, dtype: Any) -> Array:
    if where is not None or temperature is not None or dtype is not None or not fits_kernel(x, axis):
        return NotImplemented
    if x.dtype not in kernels.WIDE:
        return NotImplemented
    return kernels.softmax(x, axis)


def _log_softmax(x: Array, axis: int, where: Any, temperature: Any, dtype: Any) -> Array:
    if where is not None or temperature is not None or dtype is not None or not fits_kernel(x, axis):
        return NotImplemented
    if x.dtype in kernels.WIDE:
        return kernels.log_softmax(x, axis)
    return kernels.log_softmax(x.float(), axis).to(x.dtype)


def _triton(name: str) -> Callable[[Array, int], Array]:
    """A function of the module that is imported, with Triton, by the first call."""

    def call(x: Array, axis: int) -> Array:
        from anysoft_backends import _torch_triton

        return getattr(_torch_triton, name)(x, axis)

    return call


def _triton_logsumexp(x: Array, axis: Any, where: None, b: None, dtype: None, keepdims: bool, *_: Any) -> Array:
    name = "differentiable_logsumexp" if x.requires_grad and torch.is_grad_enabled() else "logsumexp"
    value = _triton(name)(x.reshape(-1) if axis is None else x, axis or 0)
    if axis is None:
        return value.reshape((1,) * x.ndim if keepdims else ())
    return value if keepdims else value.squeeze(axis)


def _triton_paths(operation: str) -> tuple[FastPath, FastPath]:
    call, differentiable = _triton(operation), _triton(f"differentiable_{operation}")
    guard, guard_derivative = (functools.partial(g, why=why_no_triton) for g in (_guard_kernel, _guard_derivative))
    return (
        FastPath(operation, "Triton kernel", lambda x, axis, *_: call(x, axis), guard),
        FastPath(
            operation,
            "Triton kernel, own derivative",
            lambda x, axis, *_: differentiable(x, axis),
            guard_derivative,
        ),
    )


def _raw_logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Array:
    only("torch.logsumexp", where=where, b=b, dtype=dtype, return_sign=return_sign)
    return torch.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)


def _raw_normalisation(name: str) -> Any:
    function = getattr(torch, name)

    def raw(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
        only(f"torch.{name}", where=where, temperature=temperature)
        if not isinstance(axis, int):
            raise LookupError(f"torch.{name} takes one axis, not {axis!r}; use path='auto' or 'generic'")
        return function(x, axis, dtype=dtype)

    return raw


def _devices() -> tuple[str, ...]:
    return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))


def _unflatten(container: Any) -> Any:
    return lambda leaves, rest: container.tree_unflatten(rest, leaves)


for _container in containers:
    torch.utils._pytree.register_pytree_node(_container, lambda state: state.tree_flatten(), _unflatten(_container))

BACKEND = Backend(
    name="torch",
    arrays=("torch:Tensor",),
    namespace=_torch_dtensor.namespace,
    devices=_devices,
    stop_gradient=stop_gradient,
    sums_in_halves=lambda: not is_compiling(),
    blocks=_torch_dtensor.blocks,
    gathers=lambda x, axis: not _torch_dtensor.is_dtensor(x),
    unrolls=is_compiling,
    cumulative_sum=lambda x, axis: torch.cumsum(x, axis),  # array_api_compat's makes Dynamo warn of an lru_cache
    random_bits=_torch_sampling.random_bits,
    may_look=may_look_at,
    fast_paths=(
        FastPath("logsumexp", "torch.logsumexp", _logsumexp, _guard_logsumexp, _raw_logsumexp, asks_itself=True),
        FastPath(
            "logsumexp",
            "torch.logsumexp, own derivative",
            _differentiable_logsumexp,
            _guard_derivative,
        ),
        FastPath(
            "logsumexp", "Triton kernel", _triton_logsumexp, functools.partial(_guard_logsumexp, why=why_no_triton)
        ),
        FastPath(
            "logsumexp",
            "Triton kernel, own derivative",
            _triton_logsumexp,
            functools.partial(_guard_derivative, why=why_no_triton),
        ),
        FastPath("softmax", "torch kernel", _softmax_kernel, _guard_softmax_kernel, asks_itself=True),
        FastPath("softmax", "torch.softmax", _softmax, _guard_softmax, _raw_normalisation("softmax")),
        FastPath(
            "softmax",
            "torch kernel, own derivative",
            lambda x, axis, *_: kernels.apply(kernels.Softmax, x, axis),
            _guard_derivative,
        ),
        *_triton_paths("softmax"),
        FastPath("log_softmax", "torch kernel", _log_softmax, _guard_kernel, asks_itself=True),
        FastPath(
            "log_softmax",
            "torch kernel, own derivative",
            lambda x, axis, *_: kernels.apply(kernels.LogSoftmax, x, axis)[0],
            _guard_derivative,
        ),
        *_triton_paths("log_softmax"),
        FastPath("log_softmax", "torch.log_softmax", None, _refuse_log_softmax, _raw_normalisation("log_softmax")),
        FastPath("LogSumExp.sums", "torch kernel", _sums, _guard_sums),
        *_torch_elementwise.PATHS,
        *_torch_entropy.PATHS,
        *_torch_losses.PATHS,
        *_torch_sampling.PATHS,
        *_torch_attention.PATHS,
    ),
)
