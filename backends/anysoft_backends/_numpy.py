"""NumPy: in-place kernels. Of the family it has logaddexp alone; what it lacks is SciPy's, which is no part of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from anysoft.registry import Backend, FastPath, quietly
from anysoft_backends import _numpy_attention, _numpy_sampling, _numpy_softmax
from anysoft_backends._numpy_blocks import FLOAT32, FLOAT64

Array = Any


def _logaddexp(x: Array, y: Any) -> Any:
    with np.errstate(all="ignore"):  # it warns of infinities and of differences past the range
        return np.logaddexp(x, y)


def _guard_elementwise(*arrays: Any) -> bool | str:
    for one in arrays:
        if one.__class__ is not np.ndarray or one.dtype not in (FLOAT64, FLOAT32):
            return "np.logaddexp is called for plain arrays of float32 or float64"
    if arrays[0].dtype != arrays[-1].dtype:
        return f"np.logaddexp would round {arrays[0].dtype} and {arrays[-1].dtype} to one dtype by rules of its own"
    return True


def _guard_log1pexp(x: Array) -> bool | str:
    if x.__class__ is np.ndarray and x.size > 10_000:
        return "np.logaddexp goes one by one: on long arrays the generic formula is faster"
    return _guard_elementwise(x)


BACKEND = Backend(
    name="numpy",
    arrays=("numpy:ndarray", "numpy:generic"),
    namespace=lambda x: np,
    device_of=lambda x: None,  # there is one
    random_bits=_numpy_sampling.random_bits,
    run=quietly,
    fast_paths=(
        *_numpy_softmax.PATHS,
        *_numpy_sampling.PATHS,
        *_numpy_attention.PATHS,
        FastPath("logaddexp", "numpy.logaddexp", _logaddexp, _guard_elementwise, np.logaddexp),
        FastPath("log1pexp", "numpy.logaddexp", lambda x: _logaddexp(x, 0), _guard_log1pexp),
        FastPath("log_sigmoid", "numpy.logaddexp", lambda x: -_logaddexp(-x, 0), _guard_log1pexp),
    ),
)
