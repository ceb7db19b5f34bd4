"""softmax, softmin and log_softmax, at any temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature
from anysoft._shift import Scaled, exponentiate, quotient
from anysoft.registry import Backend, Operation

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


class _Rows(NamedTuple):
    """A call's rows, ready to be normalised."""

    x: Array
    temperature: Array | None
    maximum: Array
    parts: Scaled


def _softmax(backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any) -> Array:
    def normalise(rows: _Rows) -> Array:
        xp, parts = backend.namespace(x), rows.parts
        p = parts.e / (parts.k + parts.r)
        # derivatives of the entry that holds most: through r/k, since 1 − p loses its small components
        top = 1.0 / (1.0 + xp.where(parts.dominated, parts.r / parts.k, xp.zeros_like(parts.r)))
        return xp.where(parts.tied & parts.dominated, top, p)

    return _normalised("softmax", backend, x, axis, where, temperature, dtype, normalise, excluded=0.0)


def _log_softmax(backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, dtype: Any) -> Array:
    def derivative_only(value: Array) -> Array:
        return value - backend.stop_gradient(value)

    def normalise(rows: _Rows) -> Array:
        xp, parts = backend.namespace(x), rows.parts
        if rows.temperature is None:
            shifted = rows.x - rows.maximum
        else:
            shifted = quotient(xp, rows.x, rows.maximum, rows.maximum, parts.tied, rows.temperature)
        zero = xp.zeros_like(parts.k)
        # Where one entry holds most, it is the origin: log k − top stands for it, of value 0 but with its derivatives,
        # so that neither the value −log1p(r/k) nor its derivative r/(k + r) is a difference.
        origin = xp.where(parts.dominated, derivative_only(xp.log(parts.k)) - derivative_only(parts.top), zero)
        ratio = xp.where(parts.dominated, parts.r / parts.k, zero)
        log_sum = xp.where(parts.dominated, xp.log1p(ratio), xp.log(parts.k + parts.r) - parts.top)
        return xp.where(parts.tied & parts.dominated, xp.zeros_like(shifted), shifted - origin) - log_sum

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
    normalise: Callable[[_Rows], Array],
    excluded: float,
) -> Array:
    xp = backend.namespace(x)
    rows = arguments.prepared(xp, name, {"x": x}, axis, where=where, temperature=temperature, dtype=dtype)
    (result,) = rows.arrays
    if all(n != 0 for n in result.shape):
        result = _of_rows(backend, rows, normalise, excluded)
    result = xp.astype(result, rows.dtype, copy=False)
    return result[..., 0] if rows.appended else result


def _of_rows(backend: Backend, rows: arguments.Prepared, normalise: Callable[[_Rows], Array], excluded: float) -> Array:
    (x,), where = rows.arrays, rows.where
    xp = backend.namespace(x)
    maximum = backend.stop_gradient(xp.max(x, axis=rows.axes, keepdims=True))
    parts = exponentiate(backend, x, rows.axes, maximum, rows.temperature)
    result = normalise(_Rows(x, rows.temperature, maximum, parts))
    result = xp.where(parts.dead, xp.full_like(result, xp.nan), result)
    return result if where is None else xp.where(where, result, xp.full_like(result, excluded))


_DEFAULTS = {"axis": -1, "where": None, "temperature": 1.0, "dtype": None}
_OPERANDS = ("where", "temperature")


def _check(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


_call_softmax = Operation("softmax", _softmax, _DEFAULTS, _OPERANDS, _check).call
_call_softmin = Operation("softmin", _softmin, _DEFAULTS, _OPERANDS, _check).call
_call_log_softmax = Operation("log_softmax", _log_softmax, _DEFAULTS, _OPERANDS, _check).call
