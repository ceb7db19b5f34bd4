"""Losses: a kernel for the cross-entropy of labels, and PyTorch's own for comparison only."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from anysoft.registry import FastPath
from anysoft_backends._torch_cross_entropy import cross_entropy
from anysoft_backends._torch_guards import COMMON, is_compiling, may_look, only, transforms, why_no_kernel

Array = Any


_LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _guard_cross_entropy(x: Array, targets: Any, axis: Any, weights: Any, *_: Any) -> bool | str:
    if weights is not None:
        return "the kernel has no weights"
    if x.__class__ is not torch.Tensor and x.__class__ is not torch.nn.Parameter:
        return f"the kernel is for plain tensors, not {type(x).__name__}"
    if is_compiling() or not may_look() or transforms() is not None or forward_ad._current_level >= 0:
        return "a tracer, a transform of torch.func or forward mode is at work, and takes the generic formula"
    if targets.__class__ is not torch.Tensor or targets.dtype not in _LABELS:
        return "the kernel is for labels: a tensor of integers"
    if axis.__class__ is not int or x.dtype not in COMMON:
        return f"the kernel is for floats and an axis that is a number, not {x.dtype} and {axis!r}"
    if (usable := why_no_kernel(x, axis)) is not True:
        return usable
    place = axis % x.ndim
    if targets.shape != x.shape[:place] + x.shape[place + 1 :]:
        return "the labels do not fit the logits"
    return True


def _cross_entropy(
    x: Array,
    targets: Array,
    axis: int,
    weights: None,
    label_smoothing: float,
    ignore_index: int | None,
    z_loss: float,
    reduction: str,
    return_logsumexp: bool,
) -> Any:
    return cross_entropy(x, targets, axis % x.ndim, label_smoothing, ignore_index, z_loss, reduction, return_logsumexp)


def _refuse_cross_entropy(x: Array, *_: Any) -> str:
    return "torch's has 0 for [20, 0] in float32 where 2.06e-9 is right, NaN for a mean over nothing (pytorch#75181)"


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
    only("torch.nn.functional.cross_entropy", z_loss=z_loss or None, return_logsumexp=return_logsumexp)
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


def _refuse_binary_cross_entropy(x: Array, *_: Any) -> str:
    return "torch's has 0 for -30 and target 0 in float32 where 9.4e-14 is right, and NaN for +inf and target 1"


def _raw_binary_cross_entropy(x: Array, targets: Array, weights: Any, pos_weight: Any, reduction: str) -> Array:
    return torch.nn.functional.binary_cross_entropy_with_logits(
        x, targets, weights, reduction=reduction, pos_weight=pos_weight
    )


PATHS = (
    FastPath("cross_entropy", "torch kernel", _cross_entropy, _guard_cross_entropy),
    FastPath("cross_entropy", "torch.nn.functional.cross_entropy", None, _refuse_cross_entropy, _raw_cross_entropy),
    FastPath(
        "binary_cross_entropy",
        "torch.nn.functional.binary_cross_entropy_with_logits",
        None,
        _refuse_binary_cross_entropy,
        _raw_binary_cross_entropy,
    ),
)
