"""PyTorch's own losses, for comparison only."""

from __future__ import annotations

from typing import Any

import torch

from anysoft.registry import FastPath
from anysoft_backends._torch_guards import only

Array = Any


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
    FastPath("cross_entropy", "torch.nn.functional.cross_entropy", None, _refuse_cross_entropy, _raw_cross_entropy),
    FastPath(
        "binary_cross_entropy",
        "torch.nn.functional.binary_cross_entropy_with_logits",
        None,
        _refuse_binary_cross_entropy,
        _raw_binary_cross_entropy,
    ),
)
