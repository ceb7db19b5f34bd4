"""How much an error in the logits costs: condition numbers of the family, and the error bound of its contract.

A first-order analysis asks for one number: S_i = Σ_j |δ_ij − p_j|·|x_j| / T, by how much log p_i can move, in units of
a relative change of each logit. Everything here is made of it and of its sum over p, H = Σ_j p_j·|x_j|. Neither is a
difference: where one entry holds more than half, what its p lacks is the sum of the others, and means over those are
taken with their own shift, so that they are right where the others' share underflows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft._arguments import Prepared, checked_temperature
from anysoft._shift import Scaled, exponentiate, total
from anysoft.logsumexp import logsumexp
from anysoft.registry import Backend, Operation
from anysoft.softmax import log_softmax, softmax

Array = Any


def condition_number(
    x: Array,
    /,
    of: str = "logsumexp",
    axis: Any = ...,
    *,
    kind: str = "componentwise",
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""How many times larger, relatively, an error of the logits is in the result: one number a row.

    With p = softmax(x/T), m the place of the largest p and l that of the smallest, and ‖·‖ the ∞-norm:

    ============= =================================================== ====================================
    of            componentwise                                       normwise, ‖J‖·‖x‖ / ‖f‖
    ============= =================================================== ====================================
    `logsumexp`   Σ_j p_j·\|x_j\| / \|f\|                             ‖x‖ / \|f\|
    `softmax`     max_i S_i                                           2·(1 − p_m)·‖x‖ / T
    `log_softmax` max_i S_i / \|f_i\|                                 2·(1 − p_l)·‖x‖ / (T·\|log p_l\|)
    ============= =================================================== ====================================

    where S_i = (Σ_j \|δ_ij − p_j\|·\|x_j\| + \|x_i − Σ_j p_j·x_j\|) / T. The last term is the temperature's own, which
    is an argument like the logits; it is left out where T is 1.

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float.
    of : {"logsumexp", "softmax", "log_softmax"}
        The function f.
    axis : int, tuple of int or None
        As that function takes it; left out, as that function has it: None for logsumexp, −1 for the others.
    kind : {"componentwise", "normwise"}
        What an error of size ε is. Componentwise: each x_j moves by at most ε·\|x_j\|, as rounding moves it, and each
        entry of the result is measured by itself, the worst counts. Normwise: each x_j moves by at most ε·‖x‖, and
        the result is measured by its norm; the temperature is exact.
    where : boolean array, optional
        Which entries count.
    temperature : float or array
        As for `softmax`; `logsumexp` has none.
    dtype : dtype, optional
        The result's dtype, but float32 at least.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        The shape of `x`, `where` and `temperature` broadcast together, less the reduced axes.

    Notes
    -----
    Special values: −inf has no share and nothing to move, so it is left out of sums, norms and maxima. A row that holds
    NaN or +inf, or that has nothing but −inf left, has no condition number: NaN. Where one entry alone is left and f is
    0, no relative error changes f: 0. So it is at T = 0 and T = ∞, where f is constant between ties. Where the
    exponentials add up to 1 but for rounding, it is ∞.

    A large number says that no algorithm can help: near such a sum, logsumexp has lost digits that its logits never
    had. softmax is never worse than 2·‖x‖/T normwise, and log_softmax never worse than 2·‖x‖/(T·log 2).

    Accuracy: within 4 ulp of the exact answer for logits moved by at most two roundings. XLA on the CPU takes subnormal
    numbers for 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for that function; `ValueError` for an unknown function or kind, too.

    References
    ----------
    Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41,
    2021, for the normwise numbers; Gohberg, Koltracht, "Mixed, componentwise, and structured condition numbers", SIAM
    J. Matrix Anal. Appl. 14, 1993, for the componentwise.

    Examples
    --------
    Two log-probabilities that add up to 1, but for rounding: of their logsumexp only an error is left, and of their
    softmax everything.

    >>> import numpy as np, anysoft
    >>> x = np.log([0.3, 0.7])
    >>> print(f"{anysoft.condition_number(x):.0e}")
    6e+15
    >>> print(f"{anysoft.condition_number(x, 'softmax'):.2f}")
    1.09
    """
    axis, temperature = _checked(of, axis, temperature, kind)
    alone = where is None and temperature is None
    return _call_condition_number(alone, x, of, axis, kind, where, temperature, dtype, keepdims)


def error_bound(
    x: Array,
    /,
    of: str = "logsumexp",
    axis: Any = ...,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""What anysoft promises for this input: the largest absolute error of `of`, 4 ulp(f) + 2u·Σ_j \|∂f/∂x_j\|·\|x_j\|.

    With p = softmax(x/T), and S_i as for `condition_number`, the sum is Σ_j p_j·\|x_j\| for logsumexp, p_i·S_i for
    softmax and S_i for log_softmax; u is the unit roundoff of the dtype of f, and ulp its spacing at f.

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float. They are taken as exact.
    of : {"logsumexp", "softmax", "log_softmax"}
        The function f.
    axis : int, tuple of int or None
        As that function takes it; left out, as that function has it: None for logsumexp, −1 for the others.
    where : boolean array, optional
        Which entries count.
    temperature : float or array
        As for `softmax`; `logsumexp` has none. It is an argument like the logits, unless it is 1.
    dtype : dtype, optional
        The `dtype` that the function is given. The bound itself is of that dtype, but of float32 at least.
    keepdims : bool
        For logsumexp, keep reduced axes with length one.

    Returns
    -------
    array
        In the shape of the function's result: one bound a row for logsumexp, one an entry for the others.

    Notes
    -----
    Special values: NaN where the function's value is not finite, for there the contract is that the value be equal.
    For a probability of 0, it is 4 times the smallest subnormal number.

    Accuracy: within 4 ulp of the exact answer for logits moved by at most two roundings, but that the ulp is taken at
    the value as anysoft computes it, which may lie on the other side of a power of 2. XLA on the CPU flushes bounds
    that are subnormal to 0, as it does the values that they are for.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for that function; `ValueError` for an unknown function, too.

    References
    ----------
    The bound is a mixed forward-backward one: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM,
    2002, section 1.5. Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J.
    Numer. Anal. 41, 2021, bound the textbook's formulas.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> x = np.array([0.0, -40.0])
    >>> print(f"{anysoft.logsumexp(x)} ± {anysoft.error_bound(x):.0e}")
    4.248354255291589e-18 ± 4e-32
    >>> bound = anysoft.error_bound(x.astype(np.float32), "softmax")
    >>> print(bound)
    [4.7683716e-07 2.1912092e-23]
    """
    axis, temperature = _checked(of, axis, temperature)
    alone = where is None and temperature is None
    return _call_error_bound(alone, x, of, axis, where, temperature, dtype, keepdims)


_AXES = {"logsumexp": None, "softmax": -1, "log_softmax": -1}
_KINDS = ("componentwise", "normwise")


def _checked(of: Any, axis: Any, temperature: Any, kind: Any = _KINDS[0]) -> tuple[Any, Any]:
    """The axis, which is the function's own if left out, and the temperature, None for 1."""
    if of not in _AXES:
        raise ValueError(f"of must be one of {', '.join(map(repr, _AXES))}, not {of!r}")
    if kind not in _KINDS:
        raise ValueError(f"kind must be 'componentwise' or 'normwise', not {kind!r}")
    temperature = checked_temperature(temperature)
    if of == "logsumexp" and temperature is not None:
        raise TypeError(f"logsumexp has no temperature, but {temperature!r} was given")
    return _AXES[of] if axis is ... else axis, temperature


class _Rows(NamedTuple):
    """Rows with their shares; one without a finite maximum has zeros in place of its entries, and `defined` False."""

    axes: tuple[int, ...]
    defined: Array
    present: Array  # what is not −inf
    x: Array  # 0 where absent
    maximum: Array
    parts: Scaled
    others: Scaled  # of the entries below the maximum alone
    p: Array
    leads: Array  # which entries hold more than half of their row
    rest: Array  # what the share of such an entry lacks: the sum of the others
    heat: Any  # T, and 1 in its place at 0 and ∞
    heated: Any  # whether T is an argument too
    still: Any  # whether it is 0 or ∞, between whose ties nothing moves


def _shares(backend: Backend, given: Prepared) -> _Rows:
    xp = backend.namespace(given.arrays[0])
    (x,), axes, temperature = given.arrays, given.axes, given.temperature
    defined = xp.isfinite(backend.stop_gradient(xp.max(x, axis=axes, keepdims=True)))
    x = xp.where(defined, x, xp.zeros_like(x))
    maximum = backend.stop_gradient(xp.max(x, axis=axes, keepdims=True))
    parts = exponentiate(backend, x, axes, maximum, temperature)
    below = xp.where(parts.tied, xp.full_like(x, -xp.inf), x)
    second = backend.stop_gradient(xp.max(below, axis=axes, keepdims=True))
    others = exponentiate(backend, below, axes, second, temperature)
    present = x > -xp.inf
    x = xp.where(present, x, xp.zeros_like(x))
    whole = parts.k + parts.r
    heat, heated, still = 1.0, None, None
    if temperature is not None:
        heated = temperature != 1
        still = (temperature == 0) | (temperature == xp.inf)
        heat = xp.where(still, xp.ones_like(temperature), temperature)
    leads = parts.tied & parts.dominated
    return _Rows(
        axes, defined, present, x, maximum, parts, others, parts.e / whole, leads, parts.r / whole, heat, heated, still
    )


def _settled(xp: Any, rows: _Rows, value: Array, undefined: float) -> Array:
    """0 where nothing moves, and `undefined` for rows that are."""
    if rows.still is not None:
        value = xp.where(rows.still, xp.zeros_like(value), value)
    return xp.where(rows.defined, value, xp.full_like(value, undefined))


def _mean(backend: Backend, rows: _Rows, x: Array) -> Array:
    """Σ_j p_j·x_j."""
    return total(backend, rows.p * x, rows.axes)


def _mean_of_others(backend: Backend, rows: _Rows, x: Array) -> Array:
    """The mean of `x` over the entries below the maximum, each with its share among those; 0 where there are none."""
    return total(backend, rows.others.e / (rows.others.k + rows.others.r) * x, rows.axes)


def _largest(xp: Any, rows: _Rows, x: Array) -> Array:
    """The largest of what is not negative among the entries that are there."""
    return xp.max(xp.where(rows.present, x, xp.zeros_like(x)), axis=rows.axes, keepdims=True)


def _movement(backend: Backend, rows: _Rows, x: Array) -> tuple[Array, Array]:
    """T·S_i with `x` for the logits; and for an entry that leads, T·S_i / (1 − p_i)."""
    xp, p = backend.namespace(x), rows.p
    size = xp.abs(x)
    of_leader = size + _mean_of_others(backend, rows, size)
    of_any = (1.0 - p) * size + (_mean(backend, rows, size) - p * size)
    if rows.heated is not None:
        zero = xp.zeros_like(x)
        of_leader = of_leader + xp.where(rows.heated, xp.abs(x - _mean_of_others(backend, rows, x)), zero)
        of_any = of_any + xp.where(rows.heated, xp.abs(x - _mean(backend, rows, x)), zero)
    return xp.where(rows.leads, rows.rest * of_leader, of_any), of_leader


def _condition_number(
    backend: Backend,
    x: Array,
    of: str,
    axis: Any,
    kind: str,
    where: Array | None,
    temperature: Any,
    dtype: Any,
    keepdims: bool,
) -> Array:
    xp = backend.namespace(x)
    given = arguments.prepared(
        xp, "condition_number", {"x": x}, axis, where=where, temperature=temperature, dtype=dtype
    )
    (x,) = given.arrays
    if any(n == 0 for n in x.shape):
        return _finish(xp, xp.sum(x, axis=given.axes, keepdims=True) + xp.nan, given, keep=keepdims)
    rows = _shares(backend, given)
    norm = backend.stop_gradient(_largest(xp, rows, xp.abs(rows.x)))
    # a power of 2, so that neither a difference of scaled logits overflows nor the reciprocal of one underflows
    scale = xp.where(norm > 1, xp.full_like(norm, 0.125), xp.ones_like(norm))
    value = _CONDITIONS[of](backend, rows, scale, kind == "normwise")
    return _finish(xp, _settled(xp, rows, value, xp.nan), given, keep=keepdims)


def _finish(xp: Any, value: Array, given: Prepared, *, keep: bool) -> Array:
    value = xp.astype(value, arguments.carrier(xp, given.dtype), copy=False)
    return value if keep and not given.appended else arguments.without_axes(value, given.axes)


def _of_logsumexp(backend: Backend, rows: _Rows, scale: Array, normwise: bool) -> Array:
    xp = backend.namespace(rows.x)
    size = xp.abs(rows.x) * scale
    logits = xp.where(rows.present, rows.x, xp.full_like(rows.x, -xp.inf))
    value = xp.abs(logsumexp(logits, rows.axes, keepdims=True))
    # either the sum is 1 but for rounding; or there is a logit of 0, and beside it nothing, or what underflows
    gone = value == 0
    divisor = xp.where(gone, xp.ones_like(value), value * scale)
    endless = xp.full_like(value, xp.inf)
    if normwise:
        norm = _largest(xp, rows, size)
        return xp.where(gone, xp.where(norm > 0, endless, norm), norm / divisor)
    limit = xp.where(rows.maximum == 0, _mean_of_others(backend, rows, size) / scale, endless)
    return xp.where(gone, limit, _mean(backend, rows, size) / divisor)


def _of_softmax(backend: Backend, rows: _Rows, scale: Array, normwise: bool) -> Array:
    xp = backend.namespace(rows.x)
    if normwise:
        rest = xp.where(rows.parts.dominated, rows.rest, 1.0 - _largest(xp, rows, rows.p))
        moved = 2.0 * rest * _largest(xp, rows, xp.abs(rows.x) * scale)
    else:
        moved = _largest(xp, rows, _movement(backend, rows, rows.x * scale)[0])
    return moved / rows.heat / scale


def _of_log_softmax(backend: Backend, rows: _Rows, scale: Array, normwise: bool) -> Array:
    xp, k, r = backend.namespace(rows.x), rows.parts.k, rows.parts.r
    one, zero = xp.ones_like(k), xp.zeros_like(k)
    x, heat = rows.x * scale, rows.heat * scale
    ratio = xp.where(rows.parts.dominated, r / k, one)
    least = xp.where(rows.parts.dominated, xp.log1p(ratio), xp.log((k + r) / xp.exp(rows.parts.top)))
    value = (rows.maximum * scale - x) + heat * least  # −T·log p_i, of which no term is negative
    alone = rows.parts.dominated & rows.others.dead  # and its value is 0
    if normwise:
        rest = 1.0 - xp.min(xp.where(rows.present, rows.p, xp.ones_like(x)), axis=rows.axes, keepdims=True)
        relative = 2.0 * rest * _largest(xp, rows, xp.abs(x)) / xp.where(alone, one, _largest(xp, rows, value))
        return xp.where(alone, zero, relative)
    moved, of_leader = _movement(backend, rows, x)
    # of a share of almost 1, logarithm and movement are in proportion to what it lacks, even where that underflows
    proportion = xp.where(ratio == 0, one, rows.rest / xp.log1p(xp.where(ratio == 0, one, ratio)))
    divisor = xp.where(rows.leads | ~rows.present, xp.ones_like(x), value)
    relative = xp.where(rows.leads, proportion * of_leader / heat, moved / divisor)
    return xp.where(alone, zero, _largest(xp, rows, relative))


_CONDITIONS = {"logsumexp": _of_logsumexp, "softmax": _of_softmax, "log_softmax": _of_log_softmax}


def _error_bound(
    backend: Backend,
    x: Array,
    of: str,
    axis: Any,
    where: Array | None,
    temperature: Any,
    dtype: Any,
    keepdims: bool,
) -> Array:
    xp = backend.namespace(x)
    given = arguments.prepared(xp, "error_bound", {"x": x}, axis, where=where, temperature=temperature, dtype=dtype)
    (x,) = given.arrays
    reduced = of == "logsumexp"
    if any(n == 0 for n in x.shape):
        empty = xp.sum(x, axis=given.axes, keepdims=True) + xp.nan if reduced else x
        return _finish(xp, empty, given, keep=keepdims or not reduced)
    rows = _shares(backend, given)
    # 2u is eps; and first of all, because a sum may be too large without
    scaled = rows.x * float(xp.finfo(given.dtype).eps)
    along = given.axes[0] if len(given.axes) == 1 else given.axes  # the paths that a user's call takes
    if reduced:
        value = logsumexp(x, along, keepdims=True)
        moved = _mean(backend, rows, xp.abs(scaled))
    else:
        function = softmax if of == "softmax" else log_softmax
        heat = 1.0 if given.temperature is None else given.temperature
        value = function(x, along, where=given.where, temperature=heat)
        moved = _movement(backend, rows, scaled)[0]
        moved = (rows.p * moved if of == "softmax" else moved) / rows.heat
    ulp, finite = _last_place(backend, value, given)
    bound = xp.where(finite, 4.0 * ulp + _settled(xp, rows, moved, 0.0), xp.full_like(value, xp.nan))
    return _finish(xp, bound, given, keep=keepdims or not reduced)


def _last_place(backend: Backend, value: Array, given: Prepared) -> tuple[Array, Array]:
    """The unit in the last place of a value rounded to the result's dtype, and whether it is finite there."""
    xp = backend.namespace(value)
    form, own = xp.finfo(given.dtype), xp.finfo(value.dtype)
    size = xp.abs(xp.astype(xp.astype(backend.stop_gradient(value), given.dtype), value.dtype))
    finite = size < xp.inf
    size = xp.where(finite, size, xp.zeros_like(size))
    # x + u(1 + 2u)x rounds to the next number, where neither the sum overflows nor the product is subnormal
    one = xp.ones_like(size)
    scale = xp.where(size > 1, 0.5 * one, xp.where(size < 2.0**-40, 2.0**64 * one, one))
    scaled, u = size * scale, 0.5 * float(own.eps)
    spacing = ((scaled + scaled * (u * (1.0 + 2.0 * u))) - scaled) / scale
    ulp = spacing * (float(form.eps) / float(own.eps))
    least = xp.full_like(ulp, float(form.smallest_normal) * float(form.eps))
    return xp.where(ulp > least, ulp, least), finite


def _check(given: dict[str, Any]) -> None:
    kind = given.get("kind", _KINDS[0])
    given["axis"], given["temperature"] = _checked(given["of"], given["axis"], given["temperature"], kind)


_DEFAULTS = {"where": None, "temperature": 1.0, "dtype": None, "keepdims": False}
_OPERANDS = ("where", "temperature")
_call_condition_number = Operation(
    "condition_number",
    _condition_number,
    {"of": "logsumexp", "axis": ..., "kind": "componentwise", **_DEFAULTS},
    _OPERANDS,
    _check,
).call
_call_error_bound = Operation(
    "error_bound", _error_bound, {"of": "logsumexp", "axis": ..., **_DEFAULTS}, _OPERANDS, _check
).call
