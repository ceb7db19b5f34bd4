"""Compiled kernels for anysoft: logsumexp, softmax and log_softmax of contiguous arrays on the CPU.

Nobody calls this package: anysoft finds it by its entry point, and takes its kernels where their guards allow. They
keep the same contract. `anysoft.explain` says where they are taken.
"""

from __future__ import annotations

from anysoft import register_fast_path

__all__ = ["register"]


def register() -> None:
    """Add the kernels to the tables of NumPy and PyTorch; neither is imported for it."""
    register_fast_path("numpy", "anysoft_simd._numpy:PATHS")
    register_fast_path("torch", "anysoft_simd._torch:PATHS")
