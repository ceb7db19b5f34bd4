"""CuPy: kernels of our own, and its own functions for comparison only, because none of them keeps the contract."""

from __future__ import annotations

from typing import Any

import array_api_compat.cupy as xp
import cupy

from anysoft.registry import Backend, FastPath
from anysoft_backends import _cupy_kernels as kernels

Array = Any


def _refuse_logsumexp(x: Array, *_: Any) -> str:
    return "cupyx.scipy.special.logsumexp writes log(Σ exp): it loses values near zero and sums halves in halves"


def _refuse_softmax(x: Array, *_: Any) -> str:
    return "cupyx.scipy.special.softmax sums in the input's dtype: rows past 65 504 overflow in float16"


def _refuse_log_softmax(x: Array, *_: Any) -> str:
    return "cupyx.scipy.special.log_softmax([0, -40]) has 0 where -4.2e-18 is right, and sums in the input's dtype"


def _special(name: str) -> Any:
    from cupyx.scipy import special

    return getattr(special, name)


def _raw_logsumexp(x: Array, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> Any:
    if where is not None or dtype is not None:
        raise LookupError("cupyx.scipy.special.logsumexp has no where or dtype; use path='auto' or 'generic'")
    return _special("logsumexp")(x, axis=axis, b=b, keepdims=keepdims, return_sign=return_sign)


def _raw_normalisation(name: str) -> Any:
    def raw(x: Array, axis: Any, where: Any, temperature: Any, dtype: Any) -> Array:
        if where is not None or temperature is not None or dtype is not None:
            raise LookupError(f"cupyx.scipy.special.{name} has only an axis; use path='auto' or 'generic'")
        return _special(name)(x, axis=axis)

    return raw


def _refuse_elementwise(*_: Any) -> str:
    return "CuPy's own is for comparison until it has been held to the contract on a GPU"


def _raw_elementwise(name: str) -> Any:
    return lambda x: _special(name)(x)


def _devices() -> tuple[str, ...]:
    try:
        return tuple(f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount()))
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, no device: CuPy then imports but cannot compute
        return ()


def _random_bits(rng: Any, shape: tuple[int, ...], device: Any) -> Array:
    if not (rng is None or isinstance(rng, int | cupy.random.Generator)):
        raise TypeError(f"rng must be a cupy.random.Generator or an integer seed here, not {rng!r}")
    with cupy.cuda.Device() if device is None else device:
        rng = cupy.random.default_rng(rng)  # a generator stays what it is
        # of 33 bits, 32: CuPy takes a range up to 2³² for a signed number of 32 bits, which does not hold it
        return rng.integers(0, 2**33, size=shape) & 0xFFFFFFFF


BACKEND = Backend(
    name="cupy",
    arrays=("cupy:ndarray",),
    namespace=lambda x: xp,
    devices=_devices,
    random_bits=_random_bits,
    may_look=lambda x: False,
    fast_paths=(
        FastPath("logsumexp", "one-pass kernel", kernels.logsumexp, kernels.why_no_logsumexp),
        FastPath("softmax", "one-pass kernel", kernels.softmax, kernels.why_no_normalisation),
        FastPath("log_softmax", "one-pass kernel", kernels.log_softmax, kernels.why_no_normalisation),
        FastPath("logsumexp", "cupyx.scipy.special.logsumexp", None, _refuse_logsumexp, _raw_logsumexp),
        FastPath("softmax", "cupyx.scipy.special.softmax", None, _refuse_softmax, _raw_normalisation("softmax")),
        FastPath(
            "log_softmax",
            "cupyx.scipy.special.log_softmax",
            None,
            _refuse_log_softmax,
            _raw_normalisation("log_softmax"),
        ),
        FastPath("logaddexp", "cupy.logaddexp", None, _refuse_elementwise, cupy.logaddexp),
        *(
            FastPath(operation, f"cupyx.scipy.special.{name}", None, _refuse_elementwise, _raw_elementwise(name))
            for operation, name in (("sigmoid", "expit"), ("log_sigmoid", "log_expit"), ("logit", "logit"))
        ),
    ),
)
