"""What the arguments of a call mean: dtypes, axes, broadcasting, masks, temperatures. One place, so one rule."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any


def canonical_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as a tuple of non-negative integers; a 0-d array counts as one element for None, 0 and −1."""
    if axis is None:
        return tuple(range(ndim))
    try:
        axes = tuple(map(operator.index, axis)) if isinstance(axis, tuple | list) else (operator.index(axis),)
    except TypeError:
        raise TypeError(f"axis must be an int, a tuple of ints or None, not {axis!r}") from None
    extent = max(ndim, 1)
    for one in axes:
        if not -extent <= one < extent:
            raise np.exceptions.AxisError(one, ndim)
    canonical = tuple(one % extent for one in axes)
    if len(set(canonical)) < len(canonical):
        raise ValueError(f"repeated axis in {axis!r}")
    return canonical


def broadcast_shape(**shapes: Sequence[Any]) -> tuple[Any, ...]:
    """The shape to which the named shapes broadcast; a ValueError names the two that do not fit."""
    result: list[Any] = []
    for name, shape in shapes.items():
        result = [1] * (len(shape) - len(result)) + result
        for place in range(1, len(shape) + 1):
            if result[-place] == 1:
                result[-place] = shape[-place]
            elif shape[-place] != 1 and shape[-place] != result[-place]:  # not `in`: lengths may be symbols
                if isinstance(shape[-place], float) and isinstance(result[-place], float):
                    continue  # neither is known (Dask)
                earlier = ", ".join(f"{other} {tuple(shapes[other])}" for other in shapes if other != name)
                raise ValueError(f"{name} of shape {tuple(shape)} does not broadcast with {earlier}")
    return tuple(result)


def checked_temperature(temperature: Any) -> Any:
    """The temperature as None for 1, which changes nothing, a float, or an array; a number that is none is refused."""
    if isinstance(temperature, np.generic):
        temperature = temperature.item()
    if temperature is None or isinstance(temperature, complex | str):
        raise TypeError(f"temperature must be a real number or an array of them, not {temperature!r}")
    if not isinstance(temperature, int | float):
        return temperature
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative or NaN, not {temperature!r}")
    return None if temperature == 1 else float(temperature)


def default_float(xp: Any, x: Array) -> Any:
    """The default floating dtype where `x` is: not every device has the namespace's own."""
    return xp.__array_namespace_info__().default_dtypes(device=getattr(x, "device", None))["real floating"]


def default_integer(xp: Any, x: Array) -> Any:
    """The default integer dtype where `x` is."""
    return xp.__array_namespace_info__().default_dtypes(device=getattr(x, "device", None))["integral"]


def float_dtype(xp: Any, operands: dict[str, Any]) -> Any:
    """The floating dtype of `x` and its options: integers and booleans count as the default float."""
    dtypes = {name: a.dtype for name, a in operands.items() if name == "x" or not _is_number(a)}
    for name, dtype in dtypes.items():
        if not xp.isdtype(dtype, ("bool", "numeric")) or _is_narrow(xp, dtype):
            raise TypeError(
                f"{name} has the dtype {dtype}; anysoft takes booleans, integers, floats and complex numbers"
            )
    inexact = [dtype for dtype in dtypes.values() if xp.isdtype(dtype, ("real floating", "complex floating"))]
    try:
        together = xp.result_type(*dtypes.values())
    except TypeError:  # the standard leaves integers beside floats undefined: there, the floats decide
        together = xp.result_type(*inexact)
    if not inexact:
        together = default_float(xp, operands["x"])
    numbers = [a for name, a in operands.items() if name not in dtypes]
    if any(isinstance(a, complex) or str(getattr(a, "dtype", "")).startswith("complex") for a in numbers):
        together = xp.result_type(together, xp.complex64)
    return together


def _is_number(a: Any) -> bool:
    """Whether this is a Python number, or what JAX makes of one under jit: it takes the dtype of what it meets."""
    return isinstance(a, bool | int | float | complex) or getattr(a, "weak_type", False)


def _is_narrow(xp: Any, dtype: Any) -> bool:
    return bool(xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits < 16)


def carrier(xp: Any, dtype: Any) -> Any:
    """The dtype to compute in: at least float32, where halves neither overflow at 65 504 nor stop adding at 256."""
    if xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits < 32:
        return xp.float32
    return dtype


def result_dtype(xp: Any, natural: Any, dtype: Any, *, complex_too: bool = False) -> Any:
    """`dtype` if given and fit to be a result's, or else the natural one."""
    if dtype is None:
        return natural
    kinds = ("real floating", "complex floating") if complex_too else ("real floating",)
    try:
        wanted = np.dtype(dtype) if isinstance(natural, np.dtype) else dtype  # NumPy and JAX take names and types too
        if xp.isdtype(wanted, kinds):
            return wanted
    except (TypeError, ValueError):
        pass
    raise TypeError(f"dtype must be a floating dtype of the array's framework, not {dtype!r}")


def as_mask(xp: Any, where: Any, x: Array) -> Array:
    """The mask as a boolean array."""
    if isinstance(where, bool | np.bool_):
        # torch.jit.trace cannot take a full of a bool (pytorch#130229)
        return xp.full((), float(where), dtype=xp.float32, device=getattr(x, "device", None)) != 0.0
    if not hasattr(where, "dtype") or not xp.isdtype(where.dtype, "bool"):
        raise TypeError(f"where must be boolean, not {getattr(where, 'dtype', repr(where))}")
    return where


def as_array(xp: Any, value: Any, dtype: Any, x: Array) -> Array:
    """A number or an array as an array of `dtype`, beside `x`."""
    if isinstance(value, bool | int | float | complex):
        return xp.full((), value, dtype=dtype, device=getattr(x, "device", None))
    return xp.astype(value, dtype, copy=False)


def broadcast_to(xp: Any, x: Array, shape: tuple[Any, ...]) -> Array:
    """`x` at `shape`; untouched if it has it."""
    # the rank first: comparing lengths that are symbols pins them
    return x if x.ndim == len(shape) and tuple(x.shape) == shape else xp.broadcast_to(x, shape)


def with_rank(xp: Any, x: Array | None, ndim: int) -> Array | None:
    """`x` with leading axes of length one up to `ndim` axes."""
    return x if x is None or x.ndim == ndim else xp.reshape(x, (1,) * (ndim - x.ndim) + tuple(x.shape))


class Prepared(NamedTuple):
    """Real arrays of one shape in the dtype to compute in, −inf where masked; the options with their rank."""

    arrays: tuple[Array, ...]
    where: Array | None
    temperature: Array | None
    axes: tuple[int, ...]
    appended: bool  # an axis of length one, at the end, for the entries that are rows by themselves
    dtype: Any  # of the result


def prepared(
    xp: Any,
    name: str,
    arrays: dict[str, Any],
    axis: Any,
    *,
    where: Any = None,
    temperature: Any = None,
    dtype: Any = None,
) -> Prepared:
    """The arrays of a call of `name`, the first of them called x, and its options, as rows along `axis`."""
    natural = float_dtype(xp, arrays)
    if not xp.isdtype(natural, "real floating"):
        raise TypeError(f"{name} is of real numbers, not {natural}")
    dtype = result_dtype(xp, natural, dtype)
    compute = carrier(xp, xp.result_type(natural, dtype))
    x = arrays["x"]
    # not all in one expression: a number has no dtype to look at
    operands = {label: as_array(xp, a, compute, x) for label, a in arrays.items()}
    options: dict[str, Any] = {}
    if where is not None:
        options["where"] = as_mask(xp, where, x)
    if temperature is not None:
        options["temperature"] = as_array(xp, temperature, compute, x)
    shapes = {label: a.shape for label, a in {**operands, **options}.items()}
    shape = x.shape
    if len(shapes) > 1:  # or else nothing is compared: that would pin lengths that are symbols
        shape = broadcast_shape(**shapes)
        operands = {label: broadcast_to(xp, a, shape) for label, a in operands.items()}
        options = {label: with_rank(xp, a, len(shape)) for label, a in options.items()}
    axes = canonical_axes(axis, len(shape))
    if temperature is not None and any(options["temperature"].shape[one] != 1 for one in axes if len(shape)):
        raise ValueError(
            f"temperature of shape {shapes['temperature']} varies along axis {axis!r} of x, of shape {shapes['x']}; "
            "it must have length one there"
        )
    appended = len(shape) == 0 or not axes
    if appended:
        axes = (len(shape),)
        operands, options = (
            {label: xp.expand_dims(a, axis=a.ndim) for label, a in group.items()} for group in (operands, options)
        )
    if where is not None:
        low = xp.full_like(operands["x"], -xp.inf)
        operands = {label: xp.where(options["where"], a, low) for label, a in operands.items()}
    return Prepared(tuple(operands.values()), options.get("where"), options.get("temperature"), axes, appended, dtype)


def reduced(xp: Any, value: Array, rows: Prepared, keepdims: bool) -> Array:
    """A value for each row, with keepdims, as the call returns it."""
    value = xp.astype(value, rows.dtype, copy=False)
    return value if keepdims and not rows.appended else without_axes(value, rows.axes)


def log_max(xp: Any, dtype: Any) -> float:
    """log of the largest number of a floating dtype."""
    return math.log(float(xp.finfo(dtype).max))


def without_axes(x: Array, axes: tuple[int, ...]) -> Array:
    """Drop reduced axes of length one. By an index: reshape and squeeze fail on unknown or dynamic shapes."""
    return x[tuple(0 if axis in axes else slice(None) for axis in range(x.ndim))]
