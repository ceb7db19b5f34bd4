"""PyTorch: its fused CPU and CUDA kernels where they keep the contract, which is without autograd."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad

from anysoft.registry import Backend, FastPath
from anysoft_backends import _torch_kernels as kernels

Array = Any

_COMMON = (*kernels.WIDE, torch.float16, torch.bfloat16)

_is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack  # make_fx and other tracers: a look at a value would fail, or be baked in
_tracing = torch._C._get_tracing_state  # torch.jit.trace, likewise
_transforms = torch._C._functorch.peek_interpreter_stack  # of torch.func; None outside


def _usual(x: Array, axis: Any) -> bool:
    """Written out as one expression, because this is the price of every call: about half a microsecond."""
    return (
        x.__class__ is torch.Tensor
        and axis.__class__ is int
        and x.dtype in _COMMON
        and not _is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
        and _transforms() is None
        and forward_ad._current_level < 0
    )


def _may_look() -> bool:
    """Whether a path may look at a value to decide: no tracer would bake the decision in."""
    return not _modes() and _tracing() is None


def _may_look_at(x: Array) -> bool:
    return not _is_compiling() and x.__class__ is torch.Tensor and x.is_cpu and _may_look() and _transforms() is None


def _why_not(x: Array, axis: Any, where: Any, option: Any, dtype: Any, return_sign: bool = False) -> str:
    if where is not None or option is not None or return_sign:
        return "this path has no where, b, temperature or return_sign"
    if dtype is not None:
        return f"this path would round to {dtype} before the computation"
    if axis.__class__ is not int:
        return f"this path is for one axis, not {axis!r}"
    if x.dtype not in _COMMON:
        return f"this path is for floats, not {x.dtype}"
    if _is_compiling() or not _may_look():
        return "a tracer is at work, and the generic formula looks at no value"
    if x.__class__ is not torch.Tensor and x.__class__ is not torch.nn.Parameter:
        return f"for {type(x).__name__} the generic formula is safe (torch's own gathers a sharded DTensor)"
    return "torch's derivative is NaN on dead rows and loses ties and small components (pytorch#31829, pytorch#49724)"


def _guard_logsumexp(
    x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool
) -> bool | str:
    axis = 0 if axis is None else axis
    if where is not None or b is not None or dtype is not None or return_sign or not (_usual(x, axis) and _may_look()):
        return _why_not(x, axis, where, b, dtype, return_sign)
    return _why_no_kernel(x, axis)


def _guard_softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None or dtype is not None or not _usual(x, axis):
        return _why_not(x, axis, where, temperature, dtype)
    if x.numel() > kernels.LANES and x.shape[axis] > kernels.LANES and x.dtype in kernels.WIDE:
        return "torch.softmax breaks the contract on longer rows: its sum costs up to 67 ulp at 300 (measured)"
    return True


def _guard_kernel(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None or dtype is not None or not (_usual(x, axis) and _may_look()):
        return _why_not(x, axis, where, temperature, dtype)
    return _why_no_kernel(x, axis)


def _why_no_kernel(x: Array, axis: int) -> bool | str:
    if not x.is_cpu:
        return "this path looks at values to decide, which on a GPU is a synchronisation"
    if x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return "this path needs at least one axis and one element"
    return True


def _guard_derivative(x: Array, axis: Any, where: Any, option: Any, dtype: Any, *reduction: Any) -> bool | str:
    """The written derivatives are for plain reverse mode; torch.func and forward mode take the generic formula's."""
    return_sign = bool(reduction and reduction[1])
    axis = 0 if axis is None and reduction else axis
    if where is not None or option is not None or dtype is not None or return_sign or axis.__class__ is not int:
        return _why_not(x, axis, where, option, dtype, return_sign)
    if (
        _is_compiling()
        or not _may_look()
        or (x.__class__ is not torch.Tensor and x.__class__ is not torch.nn.Parameter)
    ):
        return _why_not(x, axis, where, option, dtype)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return "there is nothing to differentiate"
    if _transforms() is not None or forward_ad._current_level >= 0:
        return "torch.func's transforms and forward mode take the derivatives of the generic formula"
    if x.dtype not in kernels.WIDE:
        return f"the derivative is made from the result, which {x.dtype} rounds too far"
    return _why_no_kernel(x, axis)


def _refuse_log_softmax(x: Array, axis: Any, *_: Any) -> str:
    return "torch.log_softmax([0, -40]) has 0 where -4.2e-18 is right (pytorch#113708)"


def _logsumexp(x: Array, axis: Any, where: None, b: None, dtype: None, keepdims: bool, return_sign: bool) -> Array:
    if axis is None:
        value = _logsumexp(x.reshape(-1), 0, None, None, None, False, False)
        return value.reshape((1,) * x.ndim) if keepdims else value
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


def _log_softmax(x: Array, axis: int, *_: Any) -> Array:
    if x.dtype in kernels.WIDE:
        return kernels.log_softmax(x, axis)
    return kernels.log_softmax(x.float(), axis).to(x.dtype)


def _only(name: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None and value is not False:
            raise LookupError(f"{name} has no {option}; use path='auto' or 'generic'")


def _raw_logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Array:
    _only("torch.logsumexp", where=where, b=b, dtype=dtype, return_sign=return_sign)
    return torch.logsumexp(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)


def _raw_normalisation(name: str) -> Any:
    function = getattr(torch, name)

    def raw(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
        _only(f"torch.{name}", where=where, temperature=temperature)
        if not isinstance(axis, int):
            raise LookupError(f"torch.{name} takes one axis, not {axis!r}; use path='auto' or 'generic'")
        return function(x, axis, dtype=dtype)

    return raw


def _refuse_cross_entropy(x: Array, *_: Any) -> str:
    return "torch's has 0 for [20, 0] in float32 where 2.06e-9 is right, NaN for a mean over nothing (pytorch#75181)"


def _refuse_binary_cross_entropy(x: Array, *_: Any) -> str:
    return "torch's has 0 for -30 and target 0 in float32 where 9.4e-14 is right, and NaN for +inf and target 1"


def _raw_cross_entropy(
    x: Array,
    targets: Array,
    axis: Any,
    weights: Any,
    label_smoothing: float,
    ignore_index: int | None,
    z_loss: float,
    reduction: str,
    return_logsumexp: bool,
) -> Array:
    _only("torch.nn.functional.cross_entropy", z_loss=z_loss or None, return_logsumexp=return_logsumexp)
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise LookupError(f"torch.nn.functional.cross_entropy has no axis {axis!r}; use path='auto' or 'generic'")
    place = min(1, x.ndim - 1)  # where it wants the classes
    if isinstance(targets, torch.Tensor) and targets.ndim == x.ndim:
        targets = targets.movedim(axis, place)
    return torch.nn.functional.cross_entropy(
        x.movedim(axis, place),
        targets,
        weights,
        ignore_index=-100 if ignore_index is None else ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _raw_binary_cross_entropy(x: Array, targets: Array, weights: Any, pos_weight: Any, reduction: str) -> Array:
    return torch.nn.functional.binary_cross_entropy_with_logits(
        x, targets, weights, reduction=reduction, pos_weight=pos_weight
    )


def _devices() -> tuple[str, ...]:
    return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))


BACKEND = Backend(
    name="torch",
    arrays=("torch:Tensor",),
    namespace=lambda x: xp,
    devices=_devices,
    stop_gradient=lambda x: x.detach(),
    sums_in_halves=lambda: not _is_compiling(),
    may_look=_may_look_at,
    fast_paths=(
        FastPath("logsumexp", "torch.logsumexp", _logsumexp, _guard_logsumexp, _raw_logsumexp),
        FastPath(
            "logsumexp",
            "torch.logsumexp, own derivative",
            _differentiable_logsumexp,
            _guard_derivative,
        ),
        FastPath("softmax", "torch.softmax", _softmax, _guard_softmax, _raw_normalisation("softmax")),
        FastPath("softmax", "torch kernel", lambda x, axis, *_: kernels.softmax(x, axis), _guard_kernel),
        FastPath(
            "softmax",
            "torch kernel, own derivative",
            lambda x, axis, *_: kernels.apply(kernels.Softmax, x, axis),
            _guard_derivative,
        ),
        FastPath("log_softmax", "torch kernel", _log_softmax, _guard_kernel),
        FastPath(
            "log_softmax",
            "torch kernel, own derivative",
            lambda x, axis, *_: kernels.apply(kernels.LogSoftmax, x, axis),
            _guard_derivative,
        ),
        FastPath("log_softmax", "torch.log_softmax", None, _refuse_log_softmax, _raw_normalisation("log_softmax")),
        FastPath("cross_entropy", "torch.nn.functional.cross_entropy", None, _refuse_cross_entropy, _raw_cross_entropy),
        FastPath(
            "binary_cross_entropy",
            "torch.nn.functional.binary_cross_entropy_with_logits",
            None,
            _refuse_binary_cross_entropy,
            _raw_binary_cross_entropy,
        ),
    ),
)
