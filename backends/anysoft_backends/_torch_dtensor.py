"""DTensor: each reduction is all-reduced once, and nothing as large as an array is sent.

A sum along a sharded axis is a pending one to DTensor, which reduces it again wherever it is used. And a plain tensor
beside a DTensor, which is an error to it, is the same on every rank here: labels, masks and weights mostly are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import array_api_compat.torch as xp
import torch

Array = Any


def is_dtensor(x: Array) -> bool:
    """Asked without importing torch.distributed, which not every build of PyTorch has."""
    return x.__class__ is not torch.Tensor and hasattr(x, "device_mesh")


def namespace(x: Array) -> Any:
    """The one of PyTorch, and for a DTensor that of its mesh."""
    return _namespace(x.device_mesh) if is_dtensor(x) else xp


def blocks(x: Array, axis: int) -> int:
    """One stretch for each shard; where they are of unequal lengths, one for each entry, which leaves a plain sum."""
    if not is_dtensor(x):
        return 1
    placements = zip(x.device_mesh.shape, x.placements, strict=True)
    shards = math.prod(size for size, placement in placements if placement.is_shard(axis))
    return shards if x.shape[axis] % shards == 0 else int(x.shape[axis])


def _reduced(x: Array) -> Array:
    """With what is pending all-reduced."""
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if each.is_partial() else each for each in x.placements])


class _Namespace:
    """That of PyTorch, whose results are replicated or sharded on a mesh, and never pending."""

    def __init__(self, mesh: Any) -> None:
        self._mesh = mesh

    def __getattr__(self, name: str) -> Any:
        found = getattr(xp, name)
        if name.startswith("_") or not callable(found) or isinstance(found, type):
            return found
        function = functools.partial(self._call, found)
        setattr(self, name, function)
        return function

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result = self._replicated(function(*map(self._replicated, arguments), **options))
        if not (is_dtensor(result) and any(each.is_partial() for each in result.placements)):
            return result
        result = _reduced(result)
        if result.requires_grad:  # its gradient is pending likewise, and would become as large as what was summed
            result.register_hook(_reduced)
        return result

    def _replicated(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or is_dtensor(x):
            return x
        from torch.distributed.tensor import DTensor, Replicate

        return DTensor.from_local(x, self._mesh, [Replicate()] * self._mesh.ndim, run_check=False)


_namespace = functools.cache(_Namespace)
