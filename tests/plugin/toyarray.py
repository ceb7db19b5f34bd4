"""A toy framework: NumPy's arrays behind a type of their own, and all that anysoft has to be told about them."""

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from anysoft.registry import Backend, FastPath, quietly


class ToyArray(NDArrayOperatorsMixin):
    def __init__(self, data: Any) -> None:
        self.data = np.asarray(data)
        self.shape, self.ndim, self.dtype = self.data.shape, self.data.ndim, self.data.dtype

    @property
    def T(self) -> "ToyArray":  # noqa: N802 - the standard's name
        return ToyArray(self.data.T)

    def __getitem__(self, key: Any) -> "ToyArray":
        return ToyArray(self.data[key])

    def __int__(self) -> int:
        return int(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return toy_namespace

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _wrapped(getattr(ufunc, method))(*inputs, **options)


def _bare(value: Any) -> Any:
    return value.data if isinstance(value, ToyArray) else list(map(_bare, value)) if type(value) is list else value


def _wrapped(function: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*map(_bare, arguments), **{name: _bare(value) for name, value in options.items()})
        return ToyArray(result) if isinstance(result, np.ndarray | np.generic) else result

    return call


class _Namespace:
    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return found if isinstance(found, type) or not callable(found) else _wrapped(found)


def _guard(x: ToyArray, axis: Any, where: Any, b: Any, dtype: Any, keepdims: bool, return_sign: bool) -> bool | str:
    plain = where is None and b is None and dtype is None and not keepdims and not return_sign
    if x.ndim != 1 or axis not in (None, 0, -1) or isinstance(axis, float | bool) or not plain:
        return "the toy kernel is for one row and no options"
    if x.dtype not in (np.float64, np.float32) or x.shape[0] > 32:
        return "the toy kernel adds one by one, and in the dtype that it is given"
    return True


def _kernel(x: ToyArray, *_: Any) -> ToyArray:
    with np.errstate(all="ignore"):
        return ToyArray(np.logaddexp.reduce(x.data))


toy_namespace = _Namespace()
BACKEND = Backend(
    name="toyarray",
    arrays=("toyarray:ToyArray",),
    namespace=lambda x: toy_namespace,
    run=quietly,
    fast_paths=(FastPath("logsumexp", "toy kernel", _kernel, _guard),),
)
