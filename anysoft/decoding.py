"""Filters on logits, for the choice of a next token: temperature, top-k, top-p (nucleus), min-p and typical.

Each takes logits and returns logits: what it keeps, exactly as it was, and −inf in place of the rest, so that filters
compose in any order and the last step is any function of logits. Each counts probabilities among what the filter before
it has left.

One rule for ties: equal logits are kept or dropped together. What becomes of an entry depends on its value, never on
its place, so a filter commutes with every permutation of the vocabulary; where the last one that is needed has equals,
more are kept than asked for. (Hugging Face transformers and vLLM decide so for top-k and min-p. Their top-p cuts within
a tie, wherever the sort has put its members.)

Examples
--------
The next token of a language model, from its logits: warmer, then at most three tokens, then those that make up nine
tenths of what is left; and six draws from these.

>>> import numpy as np, anysoft
>>> tokens = ["the", "a", "cat", "dog", "zebra", "of"]
>>> logits = np.array([3.0, 1.5, 2.5, 2.5, -1.0, -np.inf], dtype=np.float32)
>>> logits = anysoft.decoding.temperature(logits, 1.5)
>>> logits = anysoft.decoding.top_k(logits, 3)
>>> logits = anysoft.decoding.top_p(logits, 0.9)
>>> print(anysoft.softmax(logits))
[0.41100463 0.         0.2944977  0.2944977  0.         0.        ]
>>> [tokens[i] for i in anysoft.categorical(logits, shape=(6,), rng=0)]
['dog', 'the', 'the', 'cat', 'dog', 'cat']
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature
from anysoft._shift import quotient, total
from anysoft.registry import Backend, Operation

Array = Any

__all__ = ["min_p", "temperature", "top_k", "top_p", "typical"]


def temperature(logits: Array, /, temperature: Any, axis: int = -1, *, where: Array | None = None) -> Any:
    r"""Logits at a temperature, (x − max x)/T: sharper for T < 1, flatter for T > 1.

    Parameters
    ----------
    logits : array
        Of any shape; booleans and integers become the default float.
    temperature : float or array
        T ≥ 0. An array has length one along `axis`, and does not change the result's dtype. 0 leaves only the argmax
        (ties share), ∞ makes all finite entries equal.
    axis : int
        Along which an entry is one of several to choose from.
    where : boolean array, optional
        Which entries count. What it excludes is never looked at, and becomes −inf.

    Returns
    -------
    array
        The shape of `logits` and `where` broadcast together; the dtype of `logits`.

    Notes
    -----
    The maximum is subtracted because x/T overflows; it is a constant of differentiation: the derivative is 1/T.

    Special values: −inf stays −inf, a row of nothing else too; a row with NaN or +inf in it is NaN.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings.

    Raises
    ------
    TypeError
        For arrays of two frameworks or devices, complex input, a mask that is not boolean, an axis that is not one
        integer.
    ValueError
        For a temperature that is negative or NaN (in an array: NaN), or varies along `axis`; for shapes that do not
        broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Ackley, Hinton, Sejnowski, "A learning algorithm for Boltzmann machines", Cognitive Science 9, 1985. That dividing
    first makes NaN of finite logits: pytorch#163932.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.decoding.temperature([1.0, 3.0, 2.0], 0.5))
    [-4.  0. -2.]
    >>> print(anysoft.decoding.temperature([1.0, 3.0, 3.0], 0))
    [-inf   0.   0.]
    """
    checked = checked_temperature(temperature)
    return _call_temperature(_is_number(checked) and where is None, logits, checked, axis, where)


def top_k(logits: Array, /, k: Any, axis: int = -1, *, where: Array | None = None) -> Any:
    r"""Keep the k largest logits, {i : x_i ≥ the k-th largest}.

    Parameters
    ----------
    logits, axis, where
        As for `temperature`.
    k : int or array of int
        How many, at least 1. An array has length one along `axis`: a number for each row. More than there are keep all.

    Returns
    -------
    array
        The shape of `logits` and `where` broadcast together; kept entries bit for bit, −inf for the others.

    Notes
    -----
    Ties: equal logits are kept or dropped together, so more than k are kept where the k-th has equals.

    Special values: −inf stays −inf, and a row of nothing else too; +inf is the largest number; a row with NaN in it is
    NaN, and so is one whose k, in an array, is below 1.

    The derivative is 1 for what is kept, and 0 for the rest.

    Raises
    ------
    TypeError
        As for `temperature`, and for a k that is no integer.
    ValueError
        For k < 1 (in an array: NaN), for a k that varies along `axis`, and for shapes that do not broadcast.
    numpy.exceptions.AxisError
        As for `temperature`.

    References
    ----------
    Fan, Lewis, Dauphin, "Hierarchical neural story generation", ACL 2018.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.decoding.top_k([0.5, 3.0, 1.0, 2.0], 2))
    [-inf   3. -inf   2.]
    """
    checked = _checked_count(k)
    return _call_top_k(_is_number(checked) and where is None, logits, checked, axis, where)


def top_p(logits: Array, /, p: Any, axis: int = -1, *, where: Array | None = None) -> Any:
    r"""Keep the nucleus, the fewest largest logits whose probabilities reach p: {i : Σ_{x_j > x_i} softmax(x)_j < p}.

    Parameters
    ----------
    logits, axis, where
        As for `temperature`.
    p : float or array
        0 < p ≤ 1. An array has length one along `axis`. It is rounded to the dtype of the logits, or to float32 for
        halves.

    Returns
    -------
    array
        The shape of `logits` and `where` broadcast together; kept entries bit for bit, −inf for the others.

    Notes
    -----
    Ties: equal logits are kept or dropped together. At p = 1 all are kept, however small; at least the largest is.

    Special values: −inf stays −inf, and a row of nothing else too; beside +inf nothing else has a probability; a row
    with NaN in it is NaN, and so is one whose p, in an array, is above 1, negative or NaN (0 is a limit: the largest).

    The derivative is 1 for what is kept, and 0 for the rest.

    Accuracy: the nucleus is the exact one for a p, and for logits, moved by a few roundings. The running sums of
    probabilities are kept to twice the precision, so this holds for any length.

    Raises
    ------
    TypeError
        As for `temperature`, and for a p that is no real number.
    ValueError
        For p outside (0, 1], for a p that varies along `axis`, and for shapes that do not broadcast.
    numpy.exceptions.AxisError
        As for `temperature`.

    References
    ----------
    Holtzman, Buys, Du, Forbes, Choi, "The curious case of neural text degeneration", ICLR 2020.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.decoding.top_p([0.5, 3.0, 1.0, 2.0], 0.8))
    [-inf   3. -inf   2.]
    """
    checked = _checked_share(p)
    return _call_top_p(_is_number(checked) and where is None, logits, checked, axis, where)


def min_p(logits: Array, /, p: Any, axis: int = -1, *, where: Array | None = None) -> Any:
    r"""Keep what is at least p times as probable as the most probable entry, {i : x_i ≥ max x + log p}.

    Parameters
    ----------
    logits, axis, where
        As for `temperature`.
    p : float or array
        As for `top_p`.

    Returns
    -------
    array
        The shape of `logits` and `where` broadcast together; kept entries bit for bit, −inf for the others.

    Notes
    -----
    No sum is needed, and nothing underflows: logits are compared, not probabilities.

    Special values: as for `top_p`; the limit p = 0, in an array, keeps all.

    The derivative is 1 for what is kept, and 0 for the rest.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `top_p`.

    References
    ----------
    Nguyen et al., "Turning up the heat: min-p sampling for creative and coherent LLM outputs", ICLR 2025.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.decoding.min_p([0.5, 3.0, 1.0, 2.0], 0.3))
    [-inf   3. -inf   2.]
    """
    checked = _checked_share(p)
    return _call_min_p(_is_number(checked) and where is None, logits, checked, axis, where)


def typical(logits: Array, /, p: Any, axis: int = -1, *, where: Array | None = None) -> Any:
    r"""Keep the most typical entries, those with −log p_i nearest the entropy, until their probabilities reach p.

    Parameters
    ----------
    logits, axis, where
        As for `temperature`.
    p : float or array
        As for `top_p`.

    Returns
    -------
    array
        The shape of `logits` and `where` broadcast together; kept entries bit for bit, −inf for the others.

    Notes
    -----
    With H the entropy, |−log p_i − H| is |x_i − Σ_j p_j x_j|: the distance of a logit from the mean one. Entries are
    taken by this distance, the nearest first, until their probabilities reach p; the largest may be among the dropped.

    Ties: entries at one distance are kept or dropped together. At p = 1 all are kept; at least the nearest is.

    Special values: as for `top_p`.

    The derivative is 1 for what is kept, and 0 for the rest.

    Accuracy: as for `top_p`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `top_p`.

    References
    ----------
    Meister, Pimentel, Wiher, Cotterell, "Locally typical sampling", TACL 11, 2023.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.decoding.typical([2.0, 1.0, 1.0, 1.0, -9.0], 0.5))
    [-inf   1.   1.   1. -inf]
    """
    checked = _checked_share(p)
    return _call_typical(_is_number(checked) and where is None, logits, checked, axis, where)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _is_number(value: Any) -> bool:
    return value is None or value.__class__ is int or value.__class__ is float


def _checked_count(k: Any) -> Any:
    """k as an int or an array; a number that is none is refused."""
    if isinstance(k, list | tuple) or (hasattr(k, "dtype") and not isinstance(k, np.generic)):
        return k
    try:
        if isinstance(k, bool | np.bool_):
            raise TypeError
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer or an array of them, not {k!r}") from None
    if count < 1:
        raise ValueError(f"k must be at least 1, not {k!r}")
    return min(count, _MOST)


_MOST = 2**31 - 1  # what every framework's default integer holds; no row is longer


def _checked_share(p: Any) -> Any:
    """p as a float or an array; a number that is none is refused."""
    if isinstance(p, np.generic):
        p = p.item()
    if p is None or isinstance(p, bool | complex | str):
        raise TypeError(f"p must be a real number or an array of them, not {p!r}")
    if not isinstance(p, int | float):
        return p
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], not {p!r}")
    return float(p)


class _Rows(NamedTuple):
    """Rows as constants, in the dtype to compute in, and what they are filtered by."""

    x: Array  # −inf where masked
    top: Array  # the maximum
    below: Array  # x − top, 0 where they are equal: infinities too
    option: Array
    axis: int


def _operation(
    name: str,
    option: str,
    checked: Callable[[Any], Any],
    rule: Callable[[Backend, Array, _Rows], Array],
) -> Callable[..., Any]:
    def generic(backend: Backend, x: Array, value: Any, axis: Any, where: Array | None) -> Array:
        return _along_rows(backend, name, x, option, value, axis, where, rule)

    def check(given: dict[str, Any]) -> None:
        given[option] = checked(given[option])

    defaults = {option: None, "axis": -1, "where": None}
    return Operation(f"decoding.{name}", generic, defaults, (option, "where"), check).call


def _along_rows(
    backend: Backend,
    name: str,
    x: Array,
    option: str,
    value: Any,
    axis: Any,
    where: Array | None,
    rule: Callable[[Backend, Array, _Rows], Array],
) -> Array:
    xp = backend.namespace(x)
    dtype = arguments.float_dtype(xp, {"x": x})
    if not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"{name} is of real numbers, not {dtype}")
    if axis is None or isinstance(axis, tuple | list):
        raise TypeError(f"axis must be an int, not {axis!r}: a choice is along one axis")
    x = xp.astype(x, dtype, copy=False)
    compute = arguments.carrier(xp, dtype)
    value = 1.0 if value is None else value  # a temperature of 1
    value = _as_count(xp, value, x) if option == "k" else arguments.as_array(xp, value, compute, x)
    shapes = {"x": x.shape, option: value.shape}
    if where is not None:
        where = arguments.as_mask(xp, where, x)
        shapes["where"] = where.shape
    shape = arguments.broadcast_shape(**shapes)
    x = arguments.broadcast_to(xp, x, shape)
    where, value = (arguments.with_rank(xp, each, len(shape)) for each in (where, value))
    (along,) = arguments.canonical_axes(axis, x.ndim)
    scalar = x.ndim == 0
    if scalar:
        x, where, value = (None if a is None else xp.expand_dims(a, axis=0) for a in (x, where, value))
    if value.shape[along] != 1:
        raise ValueError(
            f"{option} of shape {shapes[option]} varies along axis {axis!r} of x, of shape {shapes['x']}; "
            "it must have length one there"
        )
    if any(n == 0 for n in x.shape):
        return x
    low = xp.full_like(x, -xp.inf)
    if where is not None:
        x = xp.where(where, x, low)
    wide = xp.astype(backend.stop_gradient(x), compute, copy=False)
    top = xp.max(wide, axis=along, keepdims=True)
    below = xp.where(wide == top, xp.zeros_like(wide), wide - top)
    result = rule(backend, x, _Rows(wide, top, below, value, along))
    if where is not None:
        result = xp.where(where, result, low)
    return result[0] if scalar else result


def _as_count(xp: Any, k: Any, x: Array) -> Array:
    if isinstance(k, int):
        device = getattr(x, "device", None)
        k = xp.full((), k, dtype=xp.arange(1, device=device).dtype, device=device)
    if not xp.isdtype(k.dtype, "integral"):
        raise TypeError(f"k must be an integer or an array of them, not of dtype {k.dtype}")
    return k


def _keeping(
    kept: Callable[[Backend, _Rows], Array], defined: Callable[[Array], Array]
) -> Callable[[Backend, Array, _Rows], Array]:
    """A filter: `x` where `kept` says so, and −inf elsewhere; NaN where a row holds NaN or its option is no such."""

    def rule(backend: Backend, x: Array, rows: _Rows) -> Array:
        xp = backend.namespace(x)
        result = xp.where(kept(backend, rows), x, xp.full_like(x, -xp.inf))
        return xp.where(defined(rows.option) & ~xp.isnan(rows.top), result, xp.full_like(x, xp.nan))

    return rule


# ---------------------------------------------------------------------------------------------------------------------
# The filters


def _cooled(backend: Backend, x: Array, rows: _Rows) -> Array:
    xp, t = backend.namespace(x), rows.option
    shift = xp.where(rows.top == -xp.inf, xp.zeros_like(rows.top), rows.top)  # −inf − (−inf) would be NaN
    u = quotient(backend, xp.astype(x, rows.x.dtype, copy=False), shift, shift, rows.x == rows.top, t)
    u = xp.where(rows.x == -xp.inf, xp.full_like(u, -xp.inf), u)
    u = xp.where((t >= 0) & (rows.top < xp.inf), u, xp.full_like(u, xp.nan))
    return xp.astype(u, x.dtype, copy=False)


def _largest(backend: Backend, rows: _Rows) -> Array:
    xp, n = backend.namespace(rows.x), rows.x.shape[rows.axis]
    along = tuple(n if axis == rows.axis else 1 for axis in range(rows.x.ndim))
    place = xp.reshape(xp.arange(n, device=getattr(rows.x, "device", None)), along)
    ordered = xp.sort(rows.x, axis=rows.axis)
    among = place >= n - xp.astype(rows.option, place.dtype, copy=False)
    return rows.x >= xp.min(xp.where(among, ordered, xp.full_like(ordered, xp.inf)), axis=rows.axis, keepdims=True)


def _nucleus(backend: Backend, rows: _Rows) -> Array:
    xp = backend.namespace(rows.x)
    ordered = xp.sort(rows.below, axis=rows.axis)
    return rows.below >= _last_needed(backend, ordered, xp.exp(ordered), rows)


def _near_the_top(backend: Backend, rows: _Rows) -> Array:
    return rows.below >= backend.namespace(rows.x).log(rows.option)


def _near_the_mean(backend: Backend, rows: _Rows) -> Array:
    xp, axes = backend.namespace(rows.x), (rows.axis,)
    e = xp.exp(rows.below)
    moment = e * xp.where(e == 0, xp.zeros_like(e), rows.below)
    nearness = -xp.abs(rows.below - total(backend, moment, axes) / total(backend, e, axes))
    order = xp.argsort(nearness, axis=rows.axis)
    ordered, weights = (xp.take_along_axis(each, order, axis=rows.axis) for each in (nearness, e))
    return nearness >= _last_needed(backend, ordered, weights, rows)


def _last_needed(backend: Backend, keys: Array, weights: Array, rows: _Rows) -> Array:
    """The least of the fewest greatest keys whose weights reach the share p; `keys` are in ascending order."""
    xp = backend.namespace(keys)
    end = (*(slice(None),) * rows.axis, slice(-1, None), ...)
    high, low = _running_sum(backend, weights, rows.axis)
    above = (high[end] - high) + (low[end] - low)
    # at 1 all of them are needed, those too of which the sums see nothing
    needed = (above < rows.option * (high[end] + low[end])) | (rows.option == 1)
    return xp.min(xp.where(needed, keys, keys[end]), axis=rows.axis, keepdims=True)


def _running_sum(backend: Backend, x: Array, axis: int) -> tuple[Array, Array]:
    """Running sums, each as an unevaluated sum of two, to twice the precision whatever way the framework adds.

    The differences of the computed sums are not quite what was added. What is missing is known to the last bit
    (Knuth's two-sum), and its own running sum is what the first one lacks.
    """
    xp = backend.namespace(x)
    add = backend.cumulative_sum or xp.cumulative_sum
    before = (slice(None),) * axis
    sums = add(x, axis=axis)
    last = xp.concat([xp.zeros_like(x[(*before, slice(0, 1), ...)]), sums[(*before, slice(0, -1), ...)]], axis=axis)
    step = sums - last
    back = step - sums
    rest = (sums - (step - back)) - (last + back)
    return sums, add((x - step) - rest, axis=axis)


def _is_count(k: Array) -> Array:
    return k >= 1


def _is_share(p: Array) -> Array:
    return (p >= 0) & (p <= 1)


_call_temperature = _operation("temperature", "temperature", checked_temperature, _cooled)
_call_top_k = _operation("top_k", "k", _checked_count, _keeping(_largest, _is_count))
_call_top_p = _operation("top_p", "p", _checked_share, _keeping(_nucleus, _is_share))
_call_min_p = _operation("min_p", "p", _checked_share, _keeping(_near_the_top, _is_share))
_call_typical = _operation("typical", "p", _checked_share, _keeping(_near_the_mean, _is_share))
