"""Sampling by PyTorch: random bits, and noise made of them in place."""

from __future__ import annotations

from typing import Any

import torch

from anysoft.registry import FastPath
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import is_compiling, may_look, transforms

Array = Any


def random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
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


def _guard_gumbel(bits: Array, dtype: Any) -> bool | str:
    if dtype not in kernels.WIDE:
        return f"the kernel is for float32 and float64, not {dtype}"
    if bits.__class__ is not torch.Tensor or is_compiling() or transforms() is not None or not may_look():
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


PATHS = (
    FastPath("gumbel", "torch kernel", _gumbel, _guard_gumbel),
    FastPath("largest", "torch.topk", lambda x, k, axis: torch.topk(x, k, axis)),
)
