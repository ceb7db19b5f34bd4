"""The kernels in PyTorch's table. What needs PyTorch is imported with the first tensor."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from anysoft import FastPath

Array = Any

_FUNCTIONS = ("logsumexp", "softmax", "log_softmax")


def _later(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return getattr(import_module("anysoft_simd._torch_kernels"), name)(*arguments)

    return call


PATHS = (
    *(
        FastPath(name, "anysoft-simd, own derivative", _later(f"differentiable_{name}"), _later("guard_derivative"))
        for name in _FUNCTIONS
    ),
    *(FastPath(name, "anysoft-simd", _later(name), _later("guard")) for name in _FUNCTIONS),
)
