"""logcumsumexp: the running log Σ exp, by a scan of logarithmic depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anysoft import _arguments as arguments
from anysoft.registry import Backend, Operation

Array = Any
State = tuple[Array, ...]


def logcumsumexp(
    x: Array, /, axis: int = -1, *, dtype: Any = None, reverse: bool = False, exclusive: bool = False
) -> Any:
    r"""The running logarithm of a sum of exponentials, out_i = log Σ_{j ≤ i} exp(x_j).

    Parameters
    ----------
    x : array
        Logits, of any shape; booleans and integers become the default float.
    axis : int
        Along which to sum.
    dtype : dtype, optional
        The result's dtype. The sum is made in the wider of this and the natural one, and in float32 at least.
    reverse : bool
        Sum from the end: over j ≥ i.
    exclusive : bool
        Leave the entry itself out: over j < i, so that the first result is −inf (with `reverse`, the last).

    Returns
    -------
    array
        The shape of `x`.

    Notes
    -----
    Special values: nothing yet but −inf is −inf; from +inf on it is +inf, from NaN on it is NaN.

    The derivative is exp(x_j − out_i) for j ≤ i, or else 0; it is 0 where there is nothing yet but −inf, and from +inf
    on that of a maximum, which ties share.

    Accuracy: within 4 ulp of the exact answer for inputs moved by at most two roundings, in the derivatives too.

    Work and memory grow with the length n, and the error with log n.

    Raises
    ------
    TypeError
        For complex input, and for an axis that is not one integer.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Blelloch, "Prefix sums and their applications", 1990. The arguments are those of
    ``tensorflow.math.cumulative_logsumexp`` and ``jax.lax.cumlogsumexp``. That the derivative is NaN elsewhere:
    pytorch#196705.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.logcumsumexp(np.array([-np.inf, 0.0, 0.0, 8.0])))
    [      -inf 0.         0.69314718 8.0006707 ]
    """
    return _call(True, x, axis, dtype, reverse, exclusive)


def _logcumsumexp(backend: Backend, x: Array, axis: int, dtype: Any, reverse: bool, exclusive: bool) -> Array:
    xp = backend.namespace(x)
    natural = arguments.float_dtype(xp, {"x": x})
    if not xp.isdtype(natural, "real floating"):
        raise TypeError(f"logcumsumexp is of real numbers, not {natural}")
    dtype = arguments.result_dtype(xp, natural, dtype)
    x = xp.astype(x, arguments.carrier(xp, xp.result_type(natural, dtype)), copy=False)
    if axis is None or isinstance(axis, tuple | list):
        raise TypeError(f"axis must be an int, not {axis!r}: a running sum has one direction")
    (along,) = arguments.canonical_axes(axis, x.ndim)
    scalar = x.ndim == 0
    if scalar:
        x = xp.expand_dims(x, axis=0)
    if reverse:
        x = xp.flip(x, axis=along)
    value = _running(backend, x, along)
    if exclusive:
        first = xp.full_like(_cut(x, along, slice(0, 1)), -xp.inf)
        value = xp.concat([first, _cut(value, along, slice(0, -1))], axis=along)
    if reverse:
        value = xp.flip(value, axis=along)
    value = xp.astype(value, dtype, copy=False)
    return value[0] if scalar else value


def _running(backend: Backend, x: Array, axis: int) -> Array:
    # A sum is kept as exp(m) (u + r): its maximum m, a constant of differentiation; u = exp(z) = 1, which carries the
    # derivative of the maximum's own term; and the others, r. log1p(r) is exact however small they are, and z enters
    # by itself, so that second derivatives never see 1 − p.
    xp = backend.namespace(x)
    m, zero = backend.stop_gradient(x), xp.zeros_like(x)

    def add(left: State, right: State) -> State:
        (m1, z1, u1, r1, e1), (m2, z2, u2, r2, e2) = left, right
        first = m1 >= m2
        m, lower = xp.where(first, m1, m2), xp.where(first, m2, m1)
        scale = xp.exp(xp.where(m1 == m2, xp.zeros_like(m), lower - m))  # equal infinities are apart by NaN
        r = xp.where(first, r1, r2) + scale * xp.where(first, u2 + r2, u1 + r1)
        return m, xp.where(first, z1, z2), xp.where(first, u1, u2), r, e1 + e2

    z = xp.where(xp.isfinite(m), x - m, zero)
    # +inf answers by itself, with the derivative of a maximum; there u + r counts how many there are
    endless = xp.where(m == xp.inf, x, zero)
    top, z, u, r, endless = _scan(xp, add, (m, z, xp.exp(z), zero, endless), axis)
    most = r < u
    value = xp.where(most, z + xp.log1p(xp.where(most, r, zero) * xp.exp(-z)), xp.log1p(r + (u - 1.0)))
    return xp.where(top == xp.inf, endless / backend.stop_gradient(u + r), top + value)


def _scan(xp: Any, add: Callable[[State, State], State], state: State, axis: int) -> State:
    """All running sums of an associative addition: those of neighbours give every second one, and these the rest."""
    n = state[0].shape[axis]
    if n < 2:
        return state
    even, odd = (tuple(_cut(each, axis, slice(start, None, 2)) for each in state) for start in (0, 1))
    seconds = _scan(xp, add, add(tuple(_cut(each, axis, slice(0, n // 2)) for each in even), odd), axis)
    if n == 2:
        later: State = tuple(_cut(each, axis, slice(0, 0)) for each in even)
    else:
        before = tuple(_cut(each, axis, slice(0, (n - 1) // 2)) for each in seconds)
        later = add(before, tuple(_cut(each, axis, slice(1, None)) for each in even))
    firsts = (
        xp.concat([_cut(each, axis, slice(0, 1)), rest], axis=axis) for each, rest in zip(even, later, strict=True)
    )
    return tuple(_interleave(xp, *pair, axis) for pair in zip(firsts, seconds, strict=True))


def _interleave(xp: Any, even: Array, odd: Array, axis: int) -> Array:
    n = odd.shape[axis]
    pairs = xp.stack([_cut(even, axis, slice(0, n)), odd], axis=axis + 1)
    joined = xp.reshape(pairs, (*odd.shape[:axis], 2 * n, *odd.shape[axis + 1 :]))
    return joined if even.shape[axis] == n else xp.concat([joined, _cut(even, axis, slice(n, None))], axis=axis)


def _cut(x: Array, axis: int, part: slice) -> Array:
    return x[(*(slice(None),) * axis, part, ...)]


_call = Operation(
    "logcumsumexp", _logcumsumexp, {"axis": -1, "dtype": None, "reverse": False, "exclusive": False}, ()
).call
