"""PyTorch: its fused CPU and CUDA kernels where they keep the contract, which is without autograd."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad
from torch.nn.functional import logsigmoid, softplus

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


def _stop_gradient(x: Array) -> Array:
    """A constant, which is `x` itself where nothing differentiates: what only carries derivatives is then left out."""
    if (
        _is_compiling()
        or (x.requires_grad and torch.is_grad_enabled())
        or _transforms() is not None
        or forward_ad._current_level >= 0
        or not _may_look()
    ):
        return x.detach()
    return x


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
    if x.dtype in kernels.WIDE and (x.is_cpu or (x.numel() > kernels.LANES and x.shape[axis] > kernels.LANES)):
        return "torch.softmax breaks the contract: with AVX-512 near 1, on long rows everywhere (67 ulp at 300 entries)"
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


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise: torch's own keep the contract in their values, not in their derivatives


def _guard_elementwise(x: Array, y: Any = None) -> bool | str:
    if not _usual(x, 0):
        return _why_not(x, 0, None, None, None)
    if y is not None and (y.__class__ is not torch.Tensor or y.dtype is not x.dtype or not _usual(y, 0)):
        return "this path is for two plain tensors of one dtype, neither to be differentiated"
    return True


def _guard_sigmoid(x: Array) -> bool | str:
    verdict = _guard_elementwise(x)
    if verdict is not True or x.dtype not in kernels.WIDE:
        return verdict
    if not _may_look():
        return _why_not(x, 0, None, None, None)
    return True if x.is_cpu else "this path looks at values to decide, which on a GPU is a synchronisation"


def _sigmoid(x: Array) -> Array:
    # torch computes 1/(1 + exp(−x)), and exp(−x) is infinite where the result is still a subnormal number
    if x.dtype in kernels.WIDE and x.numel() and not x.amin().item() > kernels.LEAST_EXPONENT[x.dtype]:
        return NotImplemented
    return torch.sigmoid(x)


def _raw_logcumsumexp(x: Array, axis: int, dtype: Any, reverse: bool, exclusive: bool) -> Array:
    _only("torch.logcumsumexp", dtype=dtype, reverse=reverse, exclusive=exclusive)
    return torch.logcumsumexp(x, axis)


def _guard_logcumsumexp(x: Array, axis: Any, dtype: Any, reverse: bool, exclusive: bool) -> bool | str:
    if dtype is not None or reverse or exclusive:
        return "torch.logcumsumexp has no dtype, reverse or exclusive"
    if not _usual(x, axis):
        return _why_not(x, axis, None, None, None)
    if x.dtype is torch.float64:
        return "torch.logcumsumexp adds one by one in float64: 1 700 ulp at 10⁶ entries (measured)"
    return _why_no_kernel(x, axis) if x.is_cpu else "only on the CPU does torch.logcumsumexp add in float64"


def _refuse_softplus(*_: Any) -> str:
    return "torch.nn.functional.softplus has a step at its threshold of 20"


_ELEMENTWISE = (
    FastPath("logaddexp", "torch.logaddexp", torch.logaddexp, _guard_elementwise, torch.logaddexp),
    FastPath("sigmoid", "torch.sigmoid", _sigmoid, _guard_sigmoid, torch.sigmoid),
    FastPath("log_sigmoid", "torch.nn.functional.logsigmoid", logsigmoid, _guard_elementwise, logsigmoid),
    FastPath("log1pexp", "torch.nn.functional.logsigmoid", lambda x: -logsigmoid(-x), _guard_elementwise),
    FastPath("log1pexp", "torch.nn.functional.softplus", None, _refuse_softplus, softplus),
    FastPath("logit", "torch.logit", torch.logit, _guard_elementwise, torch.logit),
    FastPath("logcumsumexp", "torch.logcumsumexp", _raw_logcumsumexp, _guard_logcumsumexp, _raw_logcumsumexp),
)


# torch's attention


def _guard_attention(
    q: Array, k: Any, v: Any, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> bool | str:
    if return_logsumexp or block_size is not None:
        return "torch's function has no return_logsumexp and no block_size"
    arrays = (q, k, v) if where is None else (q, k, v, where)
    for each in arrays:
        if each.__class__ is not torch.Tensor and each.__class__ is not torch.nn.Parameter:
            return f"this path is for plain tensors, not {type(each).__name__}"
    if _is_compiling() or not _may_look():
        return "a tracer is at work, and this path looks at values to decide"
    if (torch.is_grad_enabled() and any(each.requires_grad for each in arrays)) or forward_ad._current_level >= 0:
        return "torch's kernel has no second derivative, and NaN for that of what is masked"
    if _transforms() is not None:
        return "torch.func's transforms take the generic formula"
    if not q.is_cpu:
        return "this path looks at values to decide, which on a GPU is a synchronisation"
    if q.dtype not in kernels.WIDE or k.dtype is not q.dtype or v.dtype is not q.dtype:
        return "this path is for float32 and float64: torch rounds the probabilities of halves to halves"
    if not (scale is None or isinstance(scale, int | float)) or (where is not None and where.dtype is not torch.bool):
        return "torch's function takes a number for the scale and a mask that is boolean"
    if not 2 <= q.ndim <= 4 or q.shape[:-2] != k.shape[:-2] or k.shape != v.shape or q.shape[-1] != k.shape[-1]:
        return "torch's kernel is for four axes, of one batch and one width; without it, torch holds all scores"
    if not (q.numel() and k.numel()):
        return "this path needs at least one element"
    if where is not None and not _fits(where, (*q.shape[:-1], k.shape[-2])):
        return "the mask does not broadcast to the scores"
    return True


def _fits(x: Array, shape: tuple[int, ...]) -> bool:
    return x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False))


def _attention(q: Array, k: Array, v: Array, where: Any, scale: Any, *_: Any) -> Any:
    """torch's kernel, unless a score might overflow or something is not finite: 0 · NaN is NaN where it is masked."""
    width = q.shape[-1]
    largest = float(q.abs().amax()) * float(k.abs().amax()) * width * abs(scale or 1.0)
    if not largest < torch.finfo(q.dtype).max / 4:
        return NotImplemented
    # with fewer axes than four, torch makes all scores at once
    four = [None if each is None else each[(None,) * (4 - each.ndim)] for each in (q, k, v, where)]
    out = _sdpa(four[0], four[1], four[2], four[3], scale)
    return out.reshape(q.shape) if out.isfinite().all() else NotImplemented


def _sdpa(q: Array, k: Array, v: Array, where: Any, scale: Any) -> Array:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=where, scale=scale)


def _raw_attention(
    q: Array, k: Array, v: Array, where: Any, scale: Any, block_size: Any, return_logsumexp: bool
) -> Array:
    _only("torch.nn.functional.scaled_dot_product_attention", block_size=block_size, return_logsumexp=return_logsumexp)
    if isinstance(scale, torch.Tensor):
        raise LookupError("torch's attention takes a number for the scale; use path='auto' or 'generic'")
    return _sdpa(q, k, v, where[None] if where is not None and where.ndim < 2 else where, scale)


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


def _guard_gumbel(bits: Array, dtype: Any) -> bool | str:
    if dtype not in kernels.WIDE:
        return f"the kernel is for float32 and float64, not {dtype}"
    if bits.__class__ is not torch.Tensor or _is_compiling() or _transforms() is not None or not _may_look():
        return "the kernel writes in place, which no tracer or transform is to see"
    return True


def _gumbel(bits: Array, dtype: Any) -> Array:
    """The generic formula in place."""
    if dtype is torch.float64:
        v = bits[1].to(dtype).add_(0.5).mul_(2.0**-32).add_(bits[0])
    else:
        v = bits.to(dtype).add_(0.5)
    v = v.mul_(2.0**-32).clamp_(max=1.0 - 0.5 * torch.finfo(dtype).eps)
    return v.neg_().log1p_().neg_().log_().neg_()


def _random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
    if isinstance(rng, int):
        rng = torch.Generator(device or "cpu").manual_seed(rng)
    if rng is None:
        return torch.randint(0, 2**32, shape, device=device)
    if not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator or an integer seed here, not {rng!r}")
    if device is not None and not _same_device(rng.device, device):
        raise TypeError(f"rng is on {rng.device} and the array on {device}: a generator draws on its own device")
    return torch.randint(0, 2**32, shape, generator=rng, device=rng.device if device is None else device)


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)


BACKEND = Backend(
    name="torch",
    arrays=("torch:Tensor",),
    namespace=lambda x: xp,
    devices=_devices,
    stop_gradient=_stop_gradient,
    sums_in_halves=lambda: not _is_compiling(),
    unrolls=_is_compiling,
    cumulative_sum=lambda x, axis: torch.cumsum(x, axis),  # array_api_compat's makes Dynamo warn of an lru_cache
    random_bits=_random_bits,
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
        FastPath("gumbel", "torch kernel", _gumbel, _guard_gumbel),
        FastPath("largest", "torch.topk", lambda x, k, axis: torch.topk(x, k, axis)),
        FastPath("log_softmax", "torch.log_softmax", None, _refuse_log_softmax, _raw_normalisation("log_softmax")),
        *_ELEMENTWISE,
        FastPath("attention", "torch.scaled_dot_product_attention", _attention, _guard_attention, _raw_attention),
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
