"""PyTorch: its fused CPU and CUDA kernels where they keep the contract, which is without autograd."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad

from anysoft.registry import Backend, FastPath

Array = Any

_WIDE = (torch.float32, torch.float64)
_COMMON = (*_WIDE, torch.float16, torch.bfloat16)
_BLOCK = 16
# half of exp's range: maxima up to here need no shift, and get none (see anysoft/_shift.py for why that is better)
_IN_RANGE = {dtype: 0.45 * math.log(torch.finfo(dtype).max) for dtype in _WIDE}

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


def _why_not(x: Array, axis: Any, where: Any, option: Any, dtype: Any, return_sign: bool = False) -> str:
    if where is not None or option is not None or return_sign:
        return "torch's own has no where, b, temperature or return_sign"
    if dtype is not None:
        return f"torch's own would round to {dtype} before the computation"
    if axis.__class__ is not int:
        return f"torch's own is taken for one axis, not {axis!r}"
    if x.dtype not in _COMMON:
        return f"torch's own is taken for floats, not {x.dtype}"
    if _is_compiling() or not _may_look():
        return "a tracer is at work, and the generic formula looks at no value"
    if x.__class__ is not torch.Tensor:
        return f"for {type(x).__name__} the generic formula is safe (torch's own gathers a sharded DTensor)"
    return "torch's derivative is NaN on dead rows and loses ties and small components (pytorch#31829, pytorch#49724)"


def _guard_logsumexp(
    x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool
) -> bool | str:
    if where is not None or b is not None or dtype is not None or return_sign or not (_usual(x, axis) and _may_look()):
        return _why_not(x, axis, where, b, dtype, return_sign)
    if not x.is_cpu:
        return "whether torch.logsumexp lost a value near zero cannot be seen without a device synchronisation"
    if x.numel() > 4096 and x.shape[axis] > 4096 and x.stride(axis) != 1:
        return "torch's sum along a strided axis of this length loses digits (85 roundings at 10⁶, measured)"
    return True


def _guard_softmax(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None or dtype is not None or not _usual(x, axis):
        return _why_not(x, axis, where, temperature, dtype)
    if x.numel() > 512 and x.shape[axis] > 512 and x.dtype in _WIDE:
        return "torch.softmax breaks the contract on rows this long: shift and sum cost 12 ulp at 10⁴ (measured)"
    return True


def _guard_kernel(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> bool | str:
    if where is not None or temperature is not None or dtype is not None or not (_usual(x, axis) and _may_look()):
        return _why_not(x, axis, where, temperature, dtype)
    if not x.is_cpu:
        return "the kernel looks at its sums, which on a GPU is a synchronisation"
    if x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return "the kernel needs at least one axis and one element"
    return True


def _refuse_log_softmax(x: Array, axis: Any, *_: Any) -> str:
    return "torch.log_softmax([0, -40]) has 0 where -4.2e-18 is right (pytorch#113708)"


def _logsumexp(x: Array, axis: int, where: None, b: None, dtype: None, keepdims: bool, return_sign: bool) -> Any:
    """torch.logsumexp, certified: log of a sum near 1 has lost its digits, and |result| < ½ shows where that may be."""
    if x.dtype in _WIDE:
        value = torch.logsumexp(x, axis, keepdim=keepdims)
    else:
        value = torch.logsumexp(x.float(), axis, keepdim=keepdims)
    lost = -0.5 < value.item() < 0.5 if value.ndim == 0 else bool((value.abs() < 0.5).any())
    if lost:
        return NotImplemented
    return value if x.dtype in _WIDE else value.to(x.dtype)


def _softmax(x: Array, axis: int, *_: Any) -> Array:
    return torch.softmax(x, axis) if x.dtype in _WIDE else torch.softmax(x, axis, dtype=torch.float32).to(x.dtype)


def _sum(e: Array, axis: int) -> Array:
    """Sum with keepdims, in blocks: torch adds nearly one by one along a strided axis, and loses 8 roundings at 10⁷."""
    n = e.shape[axis]
    if n <= 2 * _BLOCK or (n <= 2**20 and e.stride(axis) == 1):
        return e.sum(axis, keepdim=True)
    blocks, rest = divmod(n, _BLOCK)
    sums = e.narrow(axis, 0, n - rest).unflatten(axis, (blocks, _BLOCK)).sum(axis % e.ndim + 1)
    if rest:
        sums = torch.cat([sums, e.narrow(axis, n - rest, rest).sum(axis, keepdim=True)], axis)
    return _sum(sums, axis)


def _softmax_in_place(x: Array, axis: int, *_: Any) -> Array:
    m = x.amax(axis, keepdim=True)
    m.masked_fill_((m >= 1) & (m <= _IN_RANGE[x.dtype]), 0)
    e = torch.sub(x, m).exp_()
    return e.div_(_sum(e, axis))


def _log_softmax_in_place(x: Array, axis: int, *_: Any) -> Array:
    wide = x if x.dtype in _WIDE else x.float()
    result = torch.sub(wide, wide.amax(axis, keepdim=True))
    e = result.exp()
    s = _sum(e, axis)
    near = s < 1.5  # log of a sum near 1 has lost its digits
    log_s = s.log_()
    if near.any():
        rows = e.movedim(axis, -1)[near.movedim(axis, -1)[..., 0]]
        rows.scatter_(-1, rows.argmax(-1, keepdim=True), 0)
        log_s.masked_scatter_(near, _sum(rows, -1).log1p())
    return result.sub_(log_s).to(x.dtype)


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


def _devices() -> tuple[str, ...]:
    return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))


BACKEND = Backend(
    name="torch",
    arrays=("torch:Tensor",),
    namespace=lambda x: xp,
    devices=_devices,
    stop_gradient=lambda x: x.detach(),
    sums_in_blocks=lambda: not _is_compiling(),
    fast_paths=(
        FastPath("logsumexp", "torch.logsumexp", _logsumexp, _guard_logsumexp, _raw_logsumexp),
        FastPath("softmax", "torch.softmax", _softmax, _guard_softmax, _raw_normalisation("softmax")),
        FastPath("softmax", "in-place torch kernel", _softmax_in_place, _guard_kernel),
        FastPath("log_softmax", "in-place torch kernel", _log_softmax_in_place, _guard_kernel),
        FastPath("log_softmax", "torch.log_softmax", None, _refuse_log_softmax, _raw_normalisation("log_softmax")),
    ),
)
