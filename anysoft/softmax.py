"""softmax, softmin and log_softmax, at any temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft import registry
from anysoft._arguments import checked_temperature
from anysoft._shift import Scaled, exponentiate, quotient
from anysoft.registry import _BY_TYPE, Backend, Operation

Array = Any


def softmax(
    x: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Any:
    r"""Probabilities from logits, exp(x/T) / Σ exp(x/T), without overflow.

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float before anything else.
    axis : int, tuple of int or None
        The axes that sum to 1; None is all of them.
    where : boolean array, optional
        Which entries count. What it excludes is never looked at, NaN included, and gets probability 0.
    temperature : float or array
        T ≥ 0. An array has length one along `axis`, and does not change the result's dtype. 0 is the argmax (ties
        share), ∞ is uniform over the finite entries.
    dtype : dtype, optional
        The result's dtype; the computation is in the wider of this and the natural one, and in float32 at least.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together.

    Notes
    -----
    Special values: a row of nothing but −inf, or with +inf or NaN in it, is NaN, as in every framework, and at every
    temperature; a row of which `where` leaves nothing is 0.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex input, a mask that is not boolean.
    ValueError
        For a temperature that is negative or NaN (in an array: NaN), or varies along `axis`; for a repeated axis and
        for shapes that do not broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41,
    2021.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.softmax(np.array([1000.0, 1000.0, -np.inf])))
    [0.5 0.5 0. ]
    >>> print(anysoft.softmax([1.0, 2.0, 2.0], temperature=0))
    [0.  0.5 0.5]
    """
    # asked here because most calls are at 1, and one more function would be a tenth of a call's whole price
    plain = temperature.__class__ is float and temperature == 1.0
    temperature = None if plain else checked_temperature(temperature)
    backend = _BY_TYPE.get(x.__class__)  # the path that most calls take, straight: see Operation.first
    first = None if backend is None else _first_softmax.get(backend.name)
    if first is not None and not registry._options_in_use:
        result = first(x, axis, where, temperature, dtype)
        if result is not NotImplemented:
            return result
    return _call_softmax(where is None and temperature is None, x, axis, where, temperature, dtype)


def log_softmax(
    x: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Any:
    r"""Log-probabilities from logits, x/T − log Σ exp(x/T), computed directly and exact near zero.

    Parameters
    ----------
    x, axis, where, temperature, dtype
        As for `softmax`; what `where` excludes gets −inf.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together.

    Notes
    -----
    Special values: a row of nothing but −inf, or with +inf or NaN in it, is NaN; a row of which `where` leaves nothing
    is −inf.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivative too.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    References
    ----------
    Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41,
    2021. That the largest entry loses its digits in every framework: scipy#19521, pytorch#113708, tensorflow#62400.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.log_softmax([0.0, -40.0]))
    [-4.24835426e-18 -4.00000000e+01]
    """
    # asked here because most calls are at 1, and one more function would be a tenth of a call's whole price
    plain = temperature.__class__ is float and temperature == 1.0
    temperature = None if plain else checked_temperature(temperature)
    backend = _BY_TYPE.get(x.__class__)  # the path that most calls take, straight: see Operation.first
    first = None if backend is None else _first_log_softmax.get(backend.name)
    if first is not None and not registry._options_in_use:
        result = first(x, axis, where, temperature, dtype)
        if result is not NotImplemented:
            return result
    return _call_log_softmax(where is None and temperature is None, x, axis, where, temperature, dtype)


def softmin(
    x: Array,
    /,
    axis: Any = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Any:
    r"""Probabilities from costs, exp(−x/T) / Σ exp(−x/T): the softmax of −x.

    Parameters
    ----------
    x, axis, where, temperature, dtype
        As for `softmax`. Integers become floats before they are negated: the least of a signed type has no negative of
        that type, and unsigned ones have none at all.

    Returns
    -------
    array
        The shape of `x` and `where` broadcast together.

    Notes
    -----
    Special values: a row of nothing but +inf, or with −inf or NaN in it, is NaN; otherwise as for `softmax`, in the
    accuracy too.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    References
    ----------
    ``torch.nn.functional.softmin``.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.softmin(np.array([-128, 127], dtype=np.int8)))
    [1.00000000e+000 1.79848622e-111]
    """
    plain = temperature.__class__ is float and temperature == 1.0
    temperature = None if plain else checked_temperature(temperature)
    return _call_softmin(where is None and temperature is None, x, axis, where, temperature, dtype)


class Rows(NamedTuple):
    """Rows ready to be normalised: their exponentials and sums, and the maximum, a constant of differentiation."""

    x: Array
    temperature: Array | None
    maximum: Array
    parts: Scaled


class LogSums(NamedTuple):
    """log Σ exp((x − max)/T) with keepdims, as `origin` + `value`: of which the first is 0, but has a derivative.

    Where one entry holds most of a row, it is the origin, so that neither the value log1p(r/k) nor its derivative
    −r/(k + r) is a difference. It enters by itself, and not as log k, so that second derivatives never see 1 − p.
    """

    origin: Array
    value: Array


def rows_of(
    backend: Backend, x: Array, axes: tuple[int, ...], temperature: Array | None = None, maximum: Array | None = None
) -> Rows:
    """Rows along `axes`, exponentiated; their maximum is not looked for if it is known."""
    if maximum is None:
        maximum = backend.namespace(x).max(x, axis=axes, keepdims=True)
    maximum = backend.stop_gradient(maximum)
    return Rows(x, temperature, maximum, exponentiate(backend, x, axes, maximum, temperature))


def log_sums(backend: Backend, rows: Rows, axes: tuple[int, ...]) -> LogSums:
    """What `log_probabilities` takes beside the rows themselves."""
    xp, parts = backend.namespace(rows.x), rows.parts
    most, nothing = parts.tied & parts.dominated, xp.zeros_like(parts.k)
    ratio = xp.where(parts.dominated, parts.r / backend.stop_gradient(parts.k), nothing)
    origin = nothing
    if parts.z is not None:
        ratio = ratio * xp.exp(-parts.z)
        origin = parts.z
        if rows.temperature is not None:
            shifted = _below_maximum(backend, rows, rows.x)
            origin = xp.sum(xp.where(most, shifted, xp.zeros_like(shifted)), axis=axes, keepdims=True)
    value = xp.where(parts.dominated, xp.log1p(ratio), xp.log(parts.k + parts.r) - parts.top)
    return LogSums(origin, value)


def log_probabilities(backend: Backend, rows: Rows, sums: LogSums, x: Array) -> Array:
    """log p of entries `x` of the rows: all of them, or some that were picked out."""
    xp = backend.namespace(x)
    largest = (x == rows.maximum) & rows.parts.dominated
    shifted = _below_maximum(backend, rows, x)
    return xp.where(largest, xp.zeros_like(shifted), shifted - sums.origin) - sums.value


def _below_maximum(backend: Backend, rows: Rows, x: Array) -> Array:
    """(x − max)/T."""
    if rows.temperature is None:
        return x - rows.maximum
    return quotient(backend, x, rows.maximum, rows.maximum, x == rows.maximum, rows.temperature)


def _softmax(backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any) -> Array:
    def normalise(xp: Any, rows: Rows, axes: tuple[int, ...]) -> Array:
        parts = rows.parts
        p = parts.e / (parts.k + parts.r)
        # derivatives of the entry that holds most: through r/k, since 1 − p loses its small components
        top = 1.0 / (1.0 + xp.where(parts.dominated, parts.r / parts.k, xp.zeros_like(parts.r)))
        return xp.where(parts.tied & parts.dominated, top, p)

    return _normalised("softmax", backend, x, axis, where, temperature, dtype, normalise, excluded=0.0)


def _log_softmax(backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any) -> Array:
    def normalise(xp: Any, rows: Rows, axes: tuple[int, ...]) -> Array:
        return log_probabilities(backend, rows, log_sums(backend, rows, axes), rows.x)

    return _normalised("log_softmax", backend, x, axis, where, temperature, dtype, normalise, excluded=-float("inf"))


def _softmin(backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any) -> Array:
    xp = backend.namespace(x)
    negative = -xp.astype(x, arguments.float_dtype(xp, {"x": x}), copy=False)
    return softmax(negative, axis, where=where, temperature=1.0 if temperature is None else temperature, dtype=dtype)


def _normalised(
    name: str,
    backend: Backend,
    x: Array,
    axis: Any,
    where: Array | None,
    temperature: Any,
    dtype: Any,
    normalise: Callable[[Any, Rows, tuple[int, ...]], Array],
    excluded: float,
) -> Array:
    xp = backend.namespace(x)
    rows = arguments.prepared(xp, name, {"x": x}, axis, where=where, temperature=temperature, dtype=dtype)
    (result,) = rows.arrays
    if all(n != 0 for n in result.shape):
        result = _of_rows(backend, rows, normalise, excluded)
    result = xp.astype(result, rows.dtype, copy=False)
    return result[..., 0] if rows.appended else result


def _of_rows(
    backend: Backend,
    prepared: arguments.Prepared,
    normalise: Callable[[Any, Rows, tuple[int, ...]], Array],
    excluded: float,
) -> Array:
    (x,), where = prepared.arrays, prepared.where
    xp = backend.namespace(x)
    rows = rows_of(backend, x, prepared.axes, prepared.temperature)
    result = normalise(xp, rows, prepared.axes)
    result = xp.where(rows.parts.dead, xp.full_like(result, xp.nan), result)
    return result if where is None else xp.where(where, result, xp.full_like(result, excluded))


_DEFAULTS = {"axis": -1, "where": None, "temperature": 1.0, "dtype": None}
_OPERANDS = ("where", "temperature")


def _check(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


_SOFTMAX = Operation("softmax", _softmax, _DEFAULTS, _OPERANDS, _check)
LOG_SOFTMAX = Operation("log_softmax", _log_softmax, _DEFAULTS, _OPERANDS, _check)
_call_softmax, _first_softmax = _SOFTMAX.call, _SOFTMAX.first
_call_softmin = Operation("softmin", _softmin, _DEFAULTS, _OPERANDS, _check).call
_call_log_softmax, _first_log_softmax = LOG_SOFTMAX.call, LOG_SOFTMAX.first
