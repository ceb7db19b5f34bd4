"""What every path of PyTorch asks of a tensor before it is taken."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch.autograd import forward_ad

from anysoft_backends import _torch_kernels as kernels

Array = Any

COMMON = (*kernels.WIDE, torch.float16, torch.bfloat16)

_Tensor, _is_grad_enabled = torch.Tensor, torch.is_grad_enabled
is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack  # make_fx and other tracers: a look at a value would fail, or be baked in
_tracing = torch._C._get_tracing_state  # torch.jit.trace, likewise
transforms = torch._C._functorch.peek_interpreter_stack  # of torch.func; None outside


def usual(x: Array, axis: Any) -> bool:
    """Written out as one expression, because this is the price of every call: each look at a tensor takes 50 ns."""
    return (
        x.__class__ is _Tensor
        and axis.__class__ is int
        and x.dtype in COMMON
        and not is_compiling()
        and not (x.requires_grad and _is_grad_enabled())
        and transforms() is None
        and forward_ad._current_level < 0
    )


def fits_kernel(x: Array, axis: Any) -> bool:
    """`usual`, `may_look` and `why_no_kernel` at once, for most calls are as simple as this."""
    return (
        usual(x, axis)
        and not _modes()
        and _tracing() is None
        and x.is_cpu
        and -(ndim := x.ndim) <= axis < ndim
        and x.numel() > 0
    )


def may_look() -> bool:
    """Whether a path may look at a value to decide: no tracer would bake the decision in."""
    return not _modes() and _tracing() is None


def may_look_at(x: Array) -> bool:
    return not is_compiling() and x.__class__ is torch.Tensor and x.is_cpu and may_look() and transforms() is None


def stop_gradient(x: Array) -> Array:
    """A constant, which is `x` itself where nothing differentiates: what only carries derivatives is then left out."""
    if (
        is_compiling()
        or (x.requires_grad and torch.is_grad_enabled())
        or transforms() is not None
        or forward_ad._current_level >= 0
        or not may_look()
    ):
        return x.detach()
    return x


def why_not(x: Array, axis: Any, where: Any, option: Any, dtype: Any, return_sign: bool = False) -> str:
    if where is not None or option is not None or return_sign:
        return "this path has no where, b, temperature or return_sign"
    if dtype is not None:
        return f"this path would round to {dtype} before the computation"
    if axis.__class__ is not int:
        return "this path is for one axis, given as a number"
    if x.dtype not in COMMON:
        return f"this path is for floats, not {x.dtype}"
    if is_compiling() or not may_look():
        return "a tracer is at work, and the generic formula looks at no value"
    if x.__class__ is not torch.Tensor and x.__class__ is not torch.nn.Parameter:
        return f"for {type(x).__name__} the generic formula is safe (torch's own gathers a sharded DTensor)"
    return "torch's derivative is NaN on dead rows and loses ties and small components (pytorch#31829, pytorch#49724)"


def why_no_kernel(x: Array, axis: int) -> bool | str:
    if not x.is_cpu:
        return "this path looks at values to decide, which on a GPU is a synchronisation"
    if x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return "this path needs at least one axis and one element"
    return True


def why_no_derivative(x: Array, axis: int) -> bool | str:
    if x.dtype not in kernels.WIDE:
        return f"the derivative is made from the result, which {x.dtype} rounds too far"
    return why_no_kernel(x, axis)


def why_no_triton(x: Array, axis: int) -> bool | str:
    if not x.is_cuda:
        return f"Triton's kernels are for CUDA, and this tensor is on {x.device}"
    if x.ndim == 0 or x.numel() == 0 or not -x.ndim <= axis < x.ndim:
        return "this path needs at least one axis and one element"
    return _triton_works(x.device)


@functools.cache
def _triton_works(device: torch.device) -> bool | str:
    """Tried once: it needs a compiler for C, and may be of another version than this PyTorch knows."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.version.hip is not None:
        return "Triton's kernels have been held to the contract on CUDA only, not on ROCm"
    try:
        if torch.cuda.get_device_capability(device) < (8, 0):
            return f"Triton's kernels need compute capability 8.0, and {torch.cuda.get_device_name(device)} is older"
        from anysoft_backends import _torch_triton

        _torch_triton.logsumexp(torch.zeros(1, device=device), 0)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another path
        return f"Triton does not work here: {error}"
    return True


def only(name: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None and value is not False:
            raise LookupError(f"{name} has no {option}; use path='auto' or 'generic'")
