"""Numbers kept as their logarithms: sums and differences of two, and the elementwise functions between the scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anysoft import _arguments as arguments
from anysoft.registry import Backend, Operation, backend_of

Array = Any

_LOG_2 = math.log(2)


# ---------------------------------------------------------------------------------------------------------------------
# Of two arrays


def logaddexp(x: Array, y: Array, /) -> Any:
    r"""The logarithm of a sum of two exponentials, log(exp(x) + exp(y)), elementwise and exact near zero.

    Parameters
    ----------
    x, y : array
        Of one framework, and broadcast together; booleans and integers become the default float. A Python number takes
        the dtype of what it meets.

    Returns
    -------
    array
        The common shape; dtype as ``result_type(x, y)``.

    Notes
    -----
    Special values: −inf and −inf is −inf, +inf and anything but NaN is +inf, NaN is never swallowed.

    The derivatives are the two shares, ½ and ½ at a tie; 0 where both are −inf.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, and for complex input.
    ValueError
        For shapes that do not broadcast.

    References
    ----------
    ``numpy.logaddexp``. That elsewhere the derivative at a tie is (1, 0): tensorflow#127232.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.logaddexp([0.0, 1000.0], [-40.0, 1000.0]))
    [4.24835426e-18 1.00069315e+03]
    """
    return _call_logaddexp(False, _beside(x, y), y)


def logsubexp(x: Array, y: Array, /) -> Any:
    r"""The logarithm of a difference of two exponentials, log(exp(x) − exp(y)) for x ≥ y, elementwise.

    Parameters
    ----------
    x, y : array
        As for `logaddexp`.

    Returns
    -------
    array
        The common shape; dtype as ``result_type(x, y)``.

    Notes
    -----
    Special values: equal numbers, and −inf and −inf, give −inf; x < y is NaN, and so is +inf and +inf; +inf and less
    is +inf; NaN is never swallowed.

    The derivatives are exp(x − f) and −exp(y − f), and 0 where the difference is 0.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError, ValueError
        As for `logaddexp`.

    References
    ----------
    Mächler, "Accurately computing log(1 − exp(−|a|))", 2012, `<https://cran.r-project.org/package=Rmpfr>`_. The special
    values are those of ``log_diff_exp`` of Stan.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.logsubexp([1.0, 2.0, 2.0], [-40.0, 1.0, 2.0]))
    [1.         1.54132485       -inf]
    """
    return _call_logsubexp(False, _beside(x, y), y)


def _logaddexp(backend: Backend, x: Array, y: Array | None) -> Array:
    return _of_two(backend, "logaddexp", x, y, _sum)


def _logsubexp(backend: Backend, x: Array, y: Array | None) -> Array:
    return _of_two(backend, "logsubexp", x, y, _difference)


def _sum(xp: Any, x: Array, y: Array) -> Array:
    # max + log1p(exp(−|x − y|)); equal infinities are apart by NaN
    infinite = (x == y) & (xp.abs(x) == xp.inf)
    zero, first = xp.zeros_like(x), x >= y
    a, b = xp.where(infinite, zero, x), xp.where(infinite, zero, y)
    value = xp.where(first, a, b) + xp.log1p(xp.exp(xp.where(first, b - a, a - b)))
    both = xp.where(x < 0, xp.full_like(x, -xp.inf), 0.5 * x + 0.5 * y)
    return xp.where(infinite, both, value)


def _difference(xp: Any, x: Array, y: Array) -> Array:
    equal = (x == y) & (x < xp.inf)
    one, two = xp.ones_like(x), xp.full_like(x, 2.0)
    a, b = xp.where(equal, two, x), xp.where(equal, one, y)
    return xp.where(equal, xp.full_like(x, -xp.inf), a + _log1mexp(xp, b - a))


def _of_two(backend: Backend, name: str, x: Array, y: Array | None, formula: Callable[..., Array]) -> Array:
    xp = backend.namespace(x)
    if y is None:
        raise TypeError(f"{name} is of two arrays")
    dtype = _real_dtype(xp, name, {"x": x, "y": y})
    compute = arguments.carrier(xp, dtype)
    x = xp.astype(x, compute, copy=False)
    y = arguments.as_array(xp, y, compute, x)
    shape = arguments.broadcast_shape(x=x.shape, y=y.shape)
    x, y = (arguments.broadcast_to(xp, each, shape) for each in (x, y))
    return xp.astype(formula(xp, x, y), dtype, copy=False)


def _beside(x: Any, y: Any) -> Any:
    """A number for `x` as an array of the dtype of `y`; what is in the second place is treated so by every call."""
    if not isinstance(x, bool | int | float | np.generic) or isinstance(y, bool | int | float | complex | list | tuple):
        return x
    backend = backend_of(y)
    if backend is None or (backend.name == "numpy" and isinstance(x, np.generic)):
        return x
    xp = backend.namespace(y)
    if not xp.isdtype(y.dtype, "real floating") or isinstance(x, np.complexfloating):
        return x
    return xp.full((), float(x), dtype=y.dtype, device=backend.device_of(y))


# ---------------------------------------------------------------------------------------------------------------------
# Of one


def log1mexp(x: Array, /) -> Any:
    r"""The logarithm of a complement, log(1 − exp(x)) for x ≤ 0, elementwise.

    Parameters
    ----------
    x : array
        Not above 0: the logarithm of a probability. Booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Notes
    -----
    Special values: −inf gives 0, 0 gives −inf (with derivative 0), above 0 it is NaN.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    Mächler, "Accurately computing log(1 − exp(−|a|))", 2012. The sign of the argument is that of Stan and of
    LogExpFunctions.jl; ``jax.nn.log1mexp`` takes −x.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.log1mexp([-1e-20, -1.0, -50.0]))
    [-4.60517019e+01 -4.58675145e-01 -1.92874985e-22]
    """
    return _call_log1mexp(True, x)


def log1pexp(x: Array, /) -> Any:
    r"""The softplus function, log(1 + exp(x)), elementwise.

    Parameters
    ----------
    x : array
        Booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Notes
    -----
    Special values: −inf gives 0, +inf gives +inf. There is no threshold: the derivative has no step.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    Mächler, "Accurately computing log(1 − exp(−|a|))", 2012. Also known as ``anysoft.softplus``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.log1pexp([-40.0, 0.0, 40.0]))
    [4.24835426e-18 6.93147181e-01 4.00000000e+01]
    """
    return _call_log1pexp(True, x)


softplus = log1pexp


def logexpm1(x: Array, /) -> Any:
    r"""The inverse of softplus, log(exp(x) − 1) for x ≥ 0, elementwise.

    Parameters
    ----------
    x : array
        Not below 0. Booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Notes
    -----
    Special values: 0 gives −inf (with derivative 0), +inf gives +inf, below 0 it is NaN.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    LogExpFunctions.jl, ``logexpm1``, also known there as ``invsoftplus``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.logexpm1([1e-20, 1.0, 1000.0]))
    [-4.60517019e+01  5.41324855e-01  1.00000000e+03]
    """
    return _call_logexpm1(True, x)


def sigmoid(x: Array, /) -> Any:
    r"""The logistic function, 1/(1 + exp(−x)), elementwise.

    Parameters
    ----------
    x : array
        Logits; booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Notes
    -----
    Special values: −inf gives 0, +inf gives 1.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too: that
    of second order keeps its digits near 0, where it changes sign.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    ``scipy.special.expit``, LogExpFunctions.jl ``logistic``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.sigmoid([-1000.0, -40.0, 0.0, 40.0]))
    [0.00000000e+00 4.24835426e-18 5.00000000e-01 1.00000000e+00]
    """
    return _call_sigmoid(True, x)


def log_sigmoid(x: Array, /) -> Any:
    r"""The logarithm of the logistic function, −log(1 + exp(−x)), elementwise.

    Parameters
    ----------
    x : array
        Logits; booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `x`.

    Notes
    -----
    Special values: −inf gives −inf, +inf gives −0.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    ``scipy.special.log_expit``, LogExpFunctions.jl ``loglogistic``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.log_sigmoid([-1000.0, 0.0, 40.0]))
    [-1.00000000e+03 -6.93147181e-01 -4.24835426e-18]
    """
    return _call_log_sigmoid(True, x)


def logit(p: Array, /) -> Any:
    r"""The inverse of `sigmoid`, log(p/(1 − p)) for 0 ≤ p ≤ 1, elementwise.

    Parameters
    ----------
    p : array
        Probabilities; booleans and integers become the default float.

    Returns
    -------
    array
        The shape and dtype of `p`.

    Notes
    -----
    Special values: 0 gives −inf and 1 gives +inf, both with derivative 0; outside it is NaN.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Raises
    ------
    TypeError
        For complex input, and for what is no array of numbers.

    References
    ----------
    ``scipy.special.logit``; LogExpFunctions.jl ``logit``.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.logit([0.0, 1e-20, 0.5, 1.0]))
    [        -inf -46.05170186   0.                  inf]
    """
    return _call_logit(True, p)


# Each branch is computed of numbers that are its own, with a harmless one in place of the others': what is not taken
# must not make NaN of the derivative.


def _log1mexp(xp: Any, x: Array) -> Array:
    near = x > -_LOG_2
    gone = x == 0
    half = xp.full_like(x, -0.5)
    value = xp.log(0.0 - xp.expm1(xp.where(near & ~gone, x, half)))
    value = xp.where(near, value, _log1m(xp, xp.exp(xp.where(near, half - 0.5, x))))
    return xp.where(gone, xp.full_like(x, -xp.inf), value)


def _log1m(xp: Any, t: Array) -> Array:
    """log(1 − t) for t up to ½, as log1p(−t²) − log1p(t): XLA's log1p loses 7 bits near −0.41 (jax#39707)."""
    return xp.log1p(0.0 - t * t) - xp.log1p(t)


def _log1pexp(xp: Any, x: Array) -> Array:
    positive = x > 0
    return xp.where(positive, x, xp.zeros_like(x)) + xp.log1p(xp.exp(xp.where(positive, -x, x)))


def _logexpm1(xp: Any, x: Array) -> Array:
    # the middle is where the value is near 0: exp(x) − 1 = 1 + 2 (exp(x − log 2) − 1)
    low, middle, gone = x < 0.58, (x >= 0.58) & (x < 0.81), x == 0
    one = xp.ones_like(x)
    value = xp.log(xp.expm1(xp.where(low & ~gone, x, one)))
    d = (xp.where(middle, x, one) - _HIGH) - _LOW
    value = xp.where(middle, xp.log1p(2.0 * xp.expm1(d)), value)
    high = xp.where(low | middle, one, x)
    value = xp.where(low | middle, value, high + _log1m(xp, xp.exp(-high)))
    return xp.where(gone, xp.full_like(x, -xp.inf), value)


# log 2 in two parts, of which the first is short enough for float32 to subtract it exactly
_HIGH = 0.693145751953125
_LOW = 1.4286068203094172e-06


def _sigmoid(xp: Any, x: Array) -> Array:
    # Near 0 by tanh, written so that all terms of its second derivative vanish with x (jax's has (1 + tanh)(1 − tanh),
    # whose derivative does not); further out exp keeps the small side's digits.
    near = xp.abs(x) < 1
    h = 0.5 * xp.where(near, x, xp.zeros_like(x))
    middle = 0.5 + 0.5 * (xp.sinh(h) / xp.cosh(h))
    one = xp.ones_like(x)
    far = xp.where(near, one, x)
    t = xp.exp(-xp.abs(far))
    return xp.where(near, middle, xp.where(far < 0, t, one) / (1.0 + t))


def _log_sigmoid(xp: Any, x: Array) -> Array:
    return -_log1pexp(xp, -x)


def _logit(xp: Any, p: Array) -> Array:
    end = (p == 0) | (p == 1)
    half = xp.full_like(p, 0.5)
    middle = xp.abs(p - 0.5) < 0.125
    s = 2.0 * xp.where(middle, p, half) - 1.0
    value = xp.log1p(s) - xp.log1p(0.0 - s)
    far = xp.where(middle | end, half, p)
    small = far < 0.25
    other = xp.where(small, xp.log1p(0.0 - xp.where(small, far, half * 0.25)), xp.log(1.0 - far))
    value = xp.where(middle, value, xp.log(far) - other)
    return xp.where(end, xp.where(p == 0, xp.full_like(p, -xp.inf), xp.full_like(p, xp.inf)), value)


def _real_dtype(xp: Any, name: str, operands: dict[str, Any]) -> Any:
    dtype = arguments.float_dtype(xp, operands)
    if not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"{name} is of real numbers, not {dtype}")
    return dtype


def _elementwise(name: str, formula: Callable[..., Array]) -> Callable[..., Any]:
    def generic(backend: Backend, x: Array) -> Array:
        xp = backend.namespace(x)
        dtype = _real_dtype(xp, name, {"x": x})
        value = formula(xp, xp.astype(x, arguments.carrier(xp, dtype), copy=False))
        return xp.astype(value, dtype, copy=False)

    return Operation(name, generic, {}, ()).call


_call_logaddexp = Operation("logaddexp", _logaddexp, {"y": None}, ("y",)).call
_call_logsubexp = Operation("logsubexp", _logsubexp, {"y": None}, ("y",)).call
_call_log1mexp = _elementwise("log1mexp", _log1mexp)
_call_log1pexp = _elementwise("log1pexp", _log1pexp)
_call_logexpm1 = _elementwise("logexpm1", _logexpm1)
_call_sigmoid = _elementwise("sigmoid", _sigmoid)
_call_log_sigmoid = _elementwise("log_sigmoid", _log_sigmoid)
_call_logit = _elementwise("logit", _logit)
