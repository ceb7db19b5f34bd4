"""Elementwise by PyTorch: its own functions keep the contract in their values, not in their derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid, softplus

from anysoft.registry import FastPath
from anysoft_backends import _torch_kernels as kernels
from anysoft_backends._torch_guards import may_look, only, usual, why_no_kernel, why_not

Array = Any


def _guard_elementwise(x: Array) -> bool | str:
    return True if usual(x, 0) else why_not(x, 0, None, None, None)


def _guard_pair(x: Array, y: Any) -> bool | str:
    if y.__class__ is not torch.Tensor or y.dtype is not x.dtype or not usual(y, 0):
        return "this path is for two plain tensors of one dtype, neither to be differentiated"
    return _guard_elementwise(x)


def _guard_sigmoid(x: Array) -> bool | str:
    verdict = _guard_elementwise(x)
    if verdict is not True or x.dtype not in kernels.WIDE:
        return verdict
    if not may_look():
        return why_not(x, 0, None, None, None)
    return True if x.is_cpu else "this path looks at values to decide, which on a GPU is a synchronisation"


def _sigmoid(x: Array) -> Array:
    # torch computes 1/(1 + exp(−x)), and exp(−x) is infinite where the result is still a subnormal number
    if x.dtype in kernels.WIDE and x.numel() and not x.amin().item() > kernels.LEAST_EXPONENT[x.dtype]:
        return NotImplemented
    return torch.sigmoid(x)


def _raw_logcumsumexp(x: Array, axis: int, dtype: Any, reverse: bool, exclusive: bool) -> Array:
    only("torch.logcumsumexp", dtype=dtype, reverse=reverse, exclusive=exclusive)
    return torch.logcumsumexp(x, axis)


def _guard_logcumsumexp(x: Array, axis: Any, dtype: Any, reverse: bool, exclusive: bool) -> bool | str:
    if dtype is not None or reverse or exclusive:
        return "torch.logcumsumexp has no dtype, reverse or exclusive"
    if not usual(x, axis):
        return why_not(x, axis, None, None, None)
    if x.dtype is torch.float64:
        return "torch.logcumsumexp adds one by one in float64: 1 700 ulp at 10⁶ entries (measured)"
    return why_no_kernel(x, axis) if x.is_cpu else "only on the CPU does torch.logcumsumexp add in float64"


def _refuse_softplus(*_: Any) -> str:
    return "torch.nn.functional.softplus has a step at its threshold of 20"


PATHS = (
    FastPath("logaddexp", "torch.logaddexp", torch.logaddexp, _guard_pair, torch.logaddexp),
    FastPath("sigmoid", "torch.sigmoid", _sigmoid, _guard_sigmoid, torch.sigmoid),
    FastPath("log_sigmoid", "torch.nn.functional.logsigmoid", logsigmoid, _guard_elementwise, logsigmoid),
    FastPath("log1pexp", "torch.nn.functional.logsigmoid", lambda x: -logsigmoid(-x), _guard_elementwise),
    FastPath("log1pexp", "torch.nn.functional.softplus", None, _refuse_softplus, softplus),
    FastPath("logit", "torch.logit", torch.logit, _guard_elementwise, torch.logit),
    FastPath("logcumsumexp", "torch.logcumsumexp", _raw_logcumsumexp, _guard_logcumsumexp, _raw_logcumsumexp),
)
