"""The mergeable state of logsumexp: a sum of exponentials that is made in pieces, in any order, and loses nothing.

A sum Σ exp(x) is kept as exp(reference)·(high + middle + low). The reference is a multiple of a unit of about half of
exp's range, so that two sums are mostly of the same one and are added as they are; where they are not, the smaller is
rescaled, but that leaves exp(−unit) of it or less. A maximum as the reference would cost a rounding with each new one:
10⁴ of them where a maximum creeps up. The three words are added with their rounding errors, so 10⁴ merges in any order
are as one, and a sum of 1 and little more keeps all digits of that little.

Sums that are no numbers: a sum with +inf in it has the reference +inf, the sign in `high` and 1 in `middle`, so that
+inf of both signs shows as a quotient between −1 and 1, after any collective too; NaN stands in `high`, because what a
collective's maximum makes of it is nobody's promise. The empty sum has the reference −inf, and 0.

References
----------
Knuth, The Art of Computer Programming, vol. 2, 4.2.2 (the error of a sum). Klein, "A generalized Kahan-Babuška
summation algorithm", Computing 76, 2006. Rump, Ogita, Oishi, "Accurate floating-point summation", SIAM J. Sci. Comput.
31, 2008 (the part of a number that can be summed exactly).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anysoft import _arguments as arguments
from anysoft._arguments import log_max
from anysoft._shift import in_range, shift_for
from anysoft.logsumexp import _exponentials, _log_abs, _prepared, _sign, weighted
from anysoft.registry import Backend, Operation, backend_of, containers, numpy_backend

Array = Any


@dataclass(frozen=True, slots=True, eq=False)
class LogSumExp:
    r"""The sum of exponentials Σ b·exp(x) as an immutable state, which is made in pieces and merges in any order.

    It is made by `from_array`, `from_logsumexp`, `from_chunks` and `empty`, which is the identity of `merge`. It says
    log Σ b·exp(x) by `value`, probabilities by `softmax_weights`, and Σ p·v by `mean` where it carries values.

    Parameters
    ----------
    reference, high, middle, low : array
        The sum is exp(reference)·(high + middle + low), elementwise. Arrays of one framework and one shape, of float32
        at least.
    values_high, values_low : array or None
        The sum of exponentials times values, in the same units, with trailing axes of their own.
    dtype : dtype
        Of what the state says.

    Notes
    -----
    Special values: as for `logsumexp`. NaN stays, +inf stays, infinities of both signs are NaN, and of the empty state
    the value is −inf.

    The derivative is that of `logsumexp`, the probabilities of the whole; it is 0 for what is empty, and the +inf of
    two states share. Of second order it is as accurate as p − p² is, no more.

    Accuracy: the value, and `softmax_weights`, are within 4 ulp of the exact answer for inputs moved by at most two
    roundings, after any tree of merges: each loses about the square of a rounding.

    A state is a container for JAX and PyTorch (a pytree), from the first array of theirs that anysoft sees: a carry of
    ``jax.lax.scan``, an argument and a result of ``jax.jit``, ``jax.vmap`` and ``torch.func.vmap``.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `logsumexp`; `TypeError` for complex input too.

    References
    ----------
    Milakov, Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867, 2018. Klein, "A generalized
    Kahan-Babuška summation algorithm", Computing 76, 2006.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> state = anysoft.LogSumExp.from_array(np.array([0.0]))
    >>> print(state.update(np.array([-40.0])).value())
    4.248354255291589e-18

    Chunks of any size, and the two passes of a softmax:

    >>> x = np.linspace(-1.0, 1.0, 1000)
    >>> whole = anysoft.LogSumExp.from_chunks(np.array_split(x, 7))
    >>> print(bool(abs(whole.value() - anysoft.logsumexp(x)) < 1e-14))
    True
    >>> print(sum(whole.softmax_weights(part).sum() for part in np.array_split(x, 3)).round(12))
    1.0
    """

    reference: Array
    high: Array
    middle: Array
    low: Array
    values_high: Array | None
    values_low: Array | None
    dtype: Any

    # -----------------------------------------------------------------------------------------------------------------
    # To make one

    @classmethod
    def empty(cls, shape: tuple[int, ...] = (), *, like: Array | None = None, dtype: Any = None) -> LogSumExp:
        """The state of nothing, which changes no state that it merges with.

        Parameters
        ----------
        shape : tuple of int
        like : array, optional
            Of whose framework, device and dtype it is; without it, of NumPy.
        dtype : dtype, optional
            Of the value.

        Returns
        -------
        LogSumExp
        """
        backend = numpy_backend() if like is None else backend_of(like)
        if backend is None:
            raise TypeError(f"like must be an array, not {like!r}")
        xp = np if like is None else backend.namespace(like)
        example = xp.zeros(()) if like is None else like
        natural = arguments.float_dtype(xp, {"x": example})
        dtype = arguments.result_dtype(xp, natural, dtype)
        zero = xp.full(shape, 0.0, dtype=arguments.carrier(xp, dtype), device=getattr(example, "device", None))
        return cls(zero - xp.inf, zero, zero, zero, None, None, dtype)

    @classmethod
    def from_array(
        cls,
        x: Array,
        /,
        axis: Any = None,
        *,
        where: Array | None = None,
        b: Array | None = None,
        keepdims: bool = False,
    ) -> LogSumExp:
        """The state of the entries of an array.

        Parameters
        ----------
        x, axis, where, b, keepdims
            As for `logsumexp`; weights may be of either sign.

        Returns
        -------
        LogSumExp
            Its shape is that of ``logsumexp(x, axis, where=where, b=b, keepdims=keepdims)``.
        """
        backend, (x, _, where, b, _) = _FROM_ARRAY.bring_together(x, axis, where, b, keepdims)
        dtype = _real_dtype(backend.namespace(x), {"x": x} if b is None else {"x": x, "b": b})
        return cls.tree_unflatten(dtype, _FROM_ARRAY.call(False, x, axis, where, b, keepdims))

    @classmethod
    def from_logsumexp(
        cls, logsumexp: Array, /, values: Array | None = None, *, base: float | None = None
    ) -> LogSumExp:
        """The state of a logsumexp that is known, such as an attention's, with the mean that belongs to it.

        Parameters
        ----------
        logsumexp : array
            −inf is the empty state. Where a kernel writes something else for a row without keys (FlashAttention has
            written +inf), put −inf there first.
        values : array, optional
            Means weighted by the exponentials, such as an attention's output: the shape of `logsumexp` and trailing
            axes. What is of no weight is not looked at.
        base : float, optional
            Of the logarithm; None is e. FlashInfer's logsumexp is of base 2.

        Returns
        -------
        LogSumExp

        Examples
        --------
        The attention to all keys, from that to each half of them:

        >>> import numpy as np, anysoft
        >>> q, k, v = np.array([[8.0, 0.0]]), np.eye(2), np.array([[1.0], [2.0]])
        >>> def part(i):
        ...     out, log_sum = anysoft.attention(q, k[i : i + 1], v[i : i + 1], scale=1.0, return_logsumexp=True)
        ...     return anysoft.LogSumExp.from_logsumexp(log_sum, out)
        >>> part(0).merge(part(1)).mean().round(7)
        array([[1.0003354]])
        """
        backend, (logsumexp, values) = _FROM_LOG.bring_together(logsumexp, values)
        xp = backend.namespace(logsumexp)
        dtype = _real_dtype(xp, {"x": logsumexp} if values is None else {"x": logsumexp, "values": values})
        compute = arguments.carrier(xp, dtype)
        logsumexp, values = (None if a is None else xp.astype(a, compute, copy=False) for a in (logsumexp, values))
        if base is not None:
            logsumexp = logsumexp * _log_of(base)
        return cls.tree_unflatten(dtype, _FROM_LOG.call(False, logsumexp, values))

    @classmethod
    def from_chunks(cls, chunks: Iterable[Array], /, axis: Any = None) -> LogSumExp:
        """The state of all chunks, of which one is held at a time: the logsumexp of a stream.

        Parameters
        ----------
        chunks : iterable of array
            Of any lengths along the axes that are reduced; all else of their shapes is the same.
        axis : int, tuple of int or None
            As for `logsumexp`, for each chunk.

        Returns
        -------
        LogSumExp
            ``LogSumExp.empty()`` if there is no chunk.
        """
        state = None
        for chunk in chunks:
            state = cls.from_array(chunk, axis) if state is None else state.update(chunk, axis)
        return cls.empty() if state is None else state

    # -----------------------------------------------------------------------------------------------------------------
    # To add to one

    def update(
        self,
        x: Array,
        /,
        axis: Any = None,
        *,
        where: Array | None = None,
        b: Array | None = None,
        keepdims: bool = False,
    ) -> LogSumExp:
        """This state and the entries of an array: ``merge`` with what `from_array` makes of them."""
        return self.merge(LogSumExp.from_array(x, axis, where=where, b=b, keepdims=keepdims))

    def merge(self, other: LogSumExp, /) -> LogSumExp:
        """The state of both. It is associative within the contract, and commutative to the last bit.

        Parameters
        ----------
        other : LogSumExp
            Of a shape that broadcasts with this one, such as the empty state of shape ``()``.

        Returns
        -------
        LogSumExp

        Raises
        ------
        TypeError
            If `other` is no `LogSumExp`, or of another framework or device.
        ValueError
            If one carries values and the other does not.
        """
        if not isinstance(other, LogSumExp):
            raise TypeError(f"a LogSumExp merges with another, not with {type(other).__name__}")
        backend = backend_of(self.reference) or numpy_backend()
        dtype = self.dtype
        if other.dtype != dtype:
            dtype = backend.namespace(self.reference).result_type(dtype, other.dtype)
        return LogSumExp.tree_unflatten(dtype, _call_merge(*self._leaves(), *other._leaves()))

    def all_reduce(self, pmax: Callable[[Array], Array], psum: Callable[[Array], Array]) -> LogSumExp:
        """The state of all devices or processes, on each of them, by two maxima and one sum (and two of values).

        Parameters
        ----------
        pmax, psum : callable
            The elementwise maximum and sum of an array over all of them:

            - JAX, in ``shard_map``: ``lambda x: jax.lax.pmax(x, name)`` and ``lambda x: jax.lax.psum(x, name)``;
            - PyTorch, with ``from torch.distributed.nn.functional import all_reduce``:
              ``lambda x: all_reduce(x, ReduceOp.MAX)`` and ``lambda x: all_reduce(x, ReduceOp.SUM)``;
            - mpi4py: ``lambda x: comm.allreduce(x, MPI.MAX)`` and ``lambda x: comm.allreduce(x, MPI.SUM)``.

            What the maximum makes of NaN does not matter: collectives differ there, and the state has none in it.

        Returns
        -------
        LogSumExp

        Notes
        -----
        The sums of up to 4096 of them are exact but for what is less than a rounding of the largest. The derivative
        passes `psum`; that of +inf is 0.
        """
        backend = backend_of(self.reference) or numpy_backend()
        return LogSumExp.tree_unflatten(self.dtype, _all_reduce(backend, self._leaves(), pmax, psum))

    # -----------------------------------------------------------------------------------------------------------------
    # What it says

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.reference.shape)

    def value(self, *, base: float | None = None, return_sign: bool = False) -> Any:
        """The logsumexp, log Σ b·exp(x).

        Parameters
        ----------
        base : float, optional
            Of the logarithm; None is e.
        return_sign : bool
            Return log|Σ b·exp(x)| and the sign of the sum.

        Returns
        -------
        array, or a tuple of two arrays with `return_sign`
            Without `return_sign`, a negative sum is NaN.
        """
        scale = None if base is None else 1.0 / _log_of(base)
        return _call_value(*self._words(), scale, self.dtype, return_sign)

    def softmax_weights(self, x: Array, /, axis: Any = None) -> Array:
        """The probabilities of entries among all that the state has seen, exp(x)/Σ b·exp(x).

        Parameters
        ----------
        x : array
            Of a shape that broadcasts with the state's.
        axis : int, tuple of int or None
            The axes of `x` that the state has lost; None is none of them, or all.

        Returns
        -------
        array
            0 where the state is empty, or its sum is 0; NaN where it is +inf or NaN.
        """
        words = self._words()
        if axis is not None and self.reference.ndim < x.ndim:
            lost = arguments.canonical_axes(axis, x.ndim)
            words = tuple(each[tuple(None if i in lost else slice(None) for i in range(x.ndim))] for each in words)
        return _call_weights(x, *words, self.dtype)

    def mean(self) -> Array:
        """The mean of the values, Σ p·v; 0 where the state is empty.

        Returns
        -------
        array

        Raises
        ------
        ValueError
            If the state carries no values.
        """
        if self.values_high is None:
            raise ValueError("this LogSumExp carries no values")
        return _call_mean(*self._leaves(), self.dtype)

    # -----------------------------------------------------------------------------------------------------------------

    def _words(self) -> tuple[Array, Array, Array, Array]:
        return self.reference, self.high, self.middle, self.low

    def _leaves(self) -> tuple[Array, ...]:
        return (*self._words(), self.values_high, self.values_low)

    def tree_flatten(self) -> tuple[tuple[Array, ...], Any]:
        """What JAX and PyTorch see of a state: its arrays, and the rest."""
        return self._words() if self.values_high is None else self._leaves(), self.dtype

    @classmethod
    def tree_unflatten(cls, dtype: Any, leaves: Iterable[Array]) -> LogSumExp:
        """The state of such arrays."""
        reference, high, middle, low, *values = leaves
        values_high, values_low = values or (None, None)
        return cls(reference, high, middle, low, values_high, values_low, dtype)


containers.append(LogSumExp)


def _real_dtype(xp: Any, operands: dict[str, Array]) -> Any:
    dtype = arguments.float_dtype(xp, operands)
    if not xp.isdtype(dtype, "real floating"):
        raise TypeError(f"LogSumExp is of real numbers, not {dtype}")
    return dtype


def _log_of(base: float) -> float:
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1 < base < math.inf:
        raise ValueError(f"base must be a number above 1, not {base!r}")
    return math.log(base)


# ---------------------------------------------------------------------------------------------------------------------
# The words

Leaves = tuple[Array, ...]


def _reference(xp: Any, top: Array) -> Array:
    """0 where exp is in range without help, as for logsumexp, and from there on a multiple of a power of two: exact."""
    unit = 2.0 ** math.floor(math.log2(0.9 * log_max(xp, top.dtype)))
    return xp.where(xp.abs(top) <= in_range(xp, top.dtype), xp.zeros_like(top), unit * xp.round(top / unit))


def _exp(backend: Backend, g: Array) -> tuple[Array, Array]:
    """exp(g) in two words: 1 and expm1(g) where it is near 1."""
    found = _EXP.fast(backend, g)
    if found is not NotImplemented:
        high, middle = found
        return high, middle
    xp = backend.namespace(g)
    zero = xp.zeros_like(g)
    near = xp.abs(g) < 0.7
    return xp.where(near, zero + 1.0, xp.exp(xp.where(near, zero, g))), xp.expm1(xp.where(near, g, zero))


def _words(
    xp: Any, reference: Array, high: Array, middle: Array, proper: Array, infinite: Array, sign: Array, undefined: Array
) -> Leaves:
    """The words where the sum is a number, and what stands for it where it is not."""
    zero, one = xp.zeros_like(high), xp.ones_like(high)
    high = xp.where(proper, high, xp.where(infinite, sign, zero))
    middle = xp.where(proper, middle, xp.where(infinite, one, zero))
    reference = xp.where(proper | infinite, reference, xp.full_like(reference, -xp.inf))
    return reference, xp.where(undefined, xp.full_like(high, xp.nan), high), middle, zero


def _from_array(
    backend: Backend, x: Array, axis: Any, where: Array | None, b: Array | None, keepdims: bool
) -> tuple[Array, ...]:
    xp = backend.namespace(x)
    compute = arguments.carrier(xp, _real_dtype(xp, {"x": x} if b is None else {"x": x, "b": b}))
    x, where, b, axes, appended = _prepared(xp, x, axis, where, b, compute)
    if any(x.shape[axis] == 0 for axis in axes):
        zero = xp.sum(x, axis=axes, keepdims=True)
        words = (zero - xp.inf, zero, zero, zero)
    elif b is None:
        words = _of_plain(backend, x, axes)
    else:
        words = _of_weighted(backend, x, b, axes)
    return words if keepdims and not appended else tuple(arguments.without_axes(each, axes) for each in words)


def _of_plain(backend: Backend, x: Array, axes: tuple[int, ...]) -> Leaves:
    xp = backend.namespace(x)
    found = _SUMS.fast(backend, x, axes)
    if found is NotImplemented:
        peak, rows, _ = _exponentials(backend, x, axes)
        found = peak, rows.k, rows.r
    peak, k, r = found
    maximum = backend.stop_gradient(peak)
    infinite, undefined, proper = maximum == xp.inf, xp.isnan(maximum), xp.abs(maximum) < xp.inf
    zero = xp.zeros_like(maximum)
    maximum = xp.where(proper, maximum, zero)
    reference = _reference(xp, maximum)
    high, middle = _exp(backend, xp.where(proper, shift_for(xp, maximum), zero) - reference)
    # of (high + middle)·(k + r), where k is 1 for most, and what is of second order is not there
    middle = high * r + middle * (k + r)
    reference = xp.where(infinite, peak, reference)
    return _words(xp, reference, high * k, middle, proper, infinite, zero + 1.0, undefined)


def _of_weighted(backend: Backend, x: Array, b: Array, axes: tuple[int, ...]) -> Leaves:
    xp = backend.namespace(x)
    rows = weighted(backend, x, b, axes)
    proper, infinite = xp.abs(rows.peak) < xp.inf, rows.peak == xp.inf
    zero = xp.zeros_like(rows.peak)
    reference = _reference(xp, xp.where(proper, rows.peak, zero))
    root = rows.root * xp.exp(0.5 * xp.where(proper, rows.c - reference, zero))
    sign = xp.astype(rows.up, x.dtype) - xp.astype(rows.down, x.dtype)
    reference = xp.where(infinite, rows.infinite, reference)
    high, middle = rows.k * root * root, rows.r * root * root
    return _words(xp, reference, high, middle, proper, infinite, sign, rows.undefined)


def _from_log(backend: Backend, v: Array, values: Array | None) -> Leaves:
    """The words of exp(v), and of exp(v)·values."""
    xp = backend.namespace(v)
    fixed, zero = backend.stop_gradient(v), xp.zeros_like(v)
    proper, infinite, undefined = xp.abs(fixed) < xp.inf, fixed == xp.inf, xp.isnan(fixed)
    reference = _reference(xp, xp.where(proper, fixed, zero))
    high, middle = _exp(backend, xp.where(proper, v, zero) - reference)
    reference = xp.where(infinite, v, reference)
    words = _words(xp, reference, high, middle, proper, infinite, zero + 1.0, undefined)
    if values is None:
        return *words, None, None
    extra = values.ndim - v.ndim
    # what has no weight is not looked at: kernels leave what they like there
    values = xp.where(_spread(xp, fixed == -xp.inf, extra), xp.zeros_like(values), values)
    return *words, values * _spread(xp, words[1] + words[2], extra), xp.zeros_like(values)


def _spread(xp: Any, x: Array, extra: int) -> Array:
    for _ in range(extra):
        x = xp.expand_dims(x, axis=x.ndim)
    return x


def _two_sum(backend: Backend, a: Array, b: Array) -> tuple[Array, Array]:
    """a + b and its rounding error, which is a constant of differentiation."""
    s = a + b
    fixed, a, b = (backend.stop_gradient(each) for each in (s, a, b))
    of_b = fixed - a
    return s, (a - (fixed - of_b)) + (b - of_b)


def _rescaled(backend: Backend, leaves: Leaves, to: Array) -> Leaves:
    """The words for another reference, which is as large or larger."""
    xp = backend.namespace(to)
    reference, high, middle, low, values_high, values_low = leaves
    reference, to = backend.stop_gradient(reference), backend.stop_gradient(to)
    same = reference == to
    zero = xp.zeros_like(to)
    factor = xp.exp(xp.where(same, zero, reference) - xp.where(same, zero, to))
    high, middle, low = high * factor, middle * factor, low * factor
    if values_high is not None:
        factor = _spread(xp, factor, values_high.ndim - factor.ndim)
        values_high, values_low = values_high * factor, values_low * factor
    return to, high, middle, low, values_high, values_low


def _of_infinite(xp: Any, reference: Array, high: Array, middle: Array, low: Array) -> tuple[Array, Array, Array]:
    """Infinite sums counted once again: the sign stays, or the quotient of both signs."""
    infinite = reference == xp.inf
    one = xp.ones_like(middle)
    high = xp.where(infinite, high / xp.where(infinite, middle, one), high)
    return high, xp.where(infinite, one, middle), xp.where(infinite, xp.zeros_like(low), low)


def _merge(backend: Backend, *both: Array) -> Leaves:
    xp = backend.namespace(both[0])
    a, b = both[:6], both[6:]
    reference = xp.maximum(a[0], b[0])
    _, a_high, a_middle, a_low, a_values, a_values_low = _rescaled(backend, a, reference)
    _, b_high, b_middle, b_low, b_values, b_values_low = _rescaled(backend, b, reference)
    high, error = _two_sum(backend, a_high, b_high)
    middle, of_middle = _two_sum(backend, a_middle, b_middle)
    middle, of_error = _two_sum(backend, middle, error)
    low = (a_low + b_low) + (of_middle + of_error)
    words = _of_infinite(xp, reference, high, middle, low)
    if a_values is None and b_values is None:
        return reference, *words, None, None
    if a_values is None or b_values is None:
        raise ValueError("a LogSumExp with values merges with one that has values too")
    values, error = _two_sum(backend, a_values, b_values)
    return reference, *words, values, (a_values_low + b_values_low) + error


_PARTS = 4096.0  # devices among which the upper words are summed exactly


def _all_reduce(
    backend: Backend, leaves: Leaves, pmax: Callable[[Array], Array], psum: Callable[[Array], Array]
) -> Leaves:
    xp = backend.namespace(leaves[0])
    to = pmax(backend.stop_gradient(leaves[0]))
    _, high, middle, low, values, values_low = _rescaled(backend, leaves, to)
    size = backend.stop_gradient(xp.abs(high) + xp.abs(middle))
    # what each device rounds to the same places sums to a number of as many places, without an error
    grid = _PARTS * pmax(xp.where(xp.isnan(size), xp.zeros_like(size), size))
    fixed = backend.stop_gradient(high)
    first = (fixed + grid) - grid
    rest, error = _two_sum(backend, high - first, middle)
    fixed = backend.stop_gradient(rest)
    grid = grid / _PARTS
    second = (fixed + grid) - grid
    third = (rest - second) + (low + error)
    words = psum(xp.stack([first, second, third]))
    if values is not None:
        values, values_low = psum(values), psum(values_low)
    return to, *_of_infinite(xp, to, words[0, ...], words[1, ...], words[2, ...]), values, values_low


# ---------------------------------------------------------------------------------------------------------------------
# What they say


def _value(
    backend: Backend,
    reference: Array,
    high: Array,
    middle: Array,
    low: Array,
    scale: float | None,
    dtype: Any,
    return_sign: bool,
) -> Any:
    xp = backend.namespace(reference)
    words = _Sum(xp, reference, high, middle + low)
    value = words.shift + _log_abs(xp, words.k, words.r)
    sign = xp.where(words.number, _sign(xp, words.k + words.r), xp.where(words.infinite, high, xp.zeros_like(high)))
    value = xp.where(
        words.number | words.infinite, xp.where(words.infinite, reference, value), xp.full_like(value, -xp.inf)
    )
    undefined = xp.isnan(high) | (words.infinite & (xp.abs(high) < 1))
    if not return_sign:
        undefined = undefined | (sign < 0)
    value, sign = (xp.where(undefined, xp.full_like(value, xp.nan), each) for each in (value, sign))
    if scale is not None:
        value = value * scale
    value = xp.astype(value, dtype, copy=False)
    return (value, xp.astype(sign, dtype, copy=False)) if return_sign else value


class _Sum:
    """exp(shift)·(k + r), harmless where the sum is not a number."""

    def __init__(self, xp: Any, reference: Array, high: Array, rest: Array) -> None:
        self.infinite = reference == xp.inf
        proper = xp.abs(reference) < xp.inf
        self.number = proper & ~xp.isnan(high)
        self.shift = xp.where(proper, reference, xp.zeros_like(reference))
        self.k = xp.where(self.number, high, xp.ones_like(high))
        self.r = xp.where(self.number, rest, xp.zeros_like(rest))


def _weights(backend: Backend, x: Array, reference: Array, high: Array, middle: Array, low: Array, dtype: Any) -> Array:
    xp = backend.namespace(x)
    words = _Sum(xp, reference, high, middle + low)
    dtype = xp.result_type(arguments.float_dtype(xp, {"x": x}), dtype)
    x = xp.astype(x, high.dtype, copy=False)
    s = words.k + words.r
    gone = (s == 0) | (reference == -xp.inf)
    s = xp.where(gone, xp.ones_like(s), s)
    # below 1, the sum may be in range where exp of the shifted entries is not
    size = xp.abs(backend.stop_gradient(s))
    more = xp.where(size < 1, xp.floor(xp.log(size)), xp.zeros_like(size))
    p = xp.exp((x - words.shift) - more) / (s * xp.exp(-more))
    p = xp.where(gone, xp.zeros_like(p), p)
    p = xp.where(xp.isnan(high) | words.infinite, xp.full_like(p, xp.nan), p)
    return xp.astype(p, dtype, copy=False)


def _mean(
    backend: Backend,
    reference: Array,
    high: Array,
    middle: Array,
    low: Array,
    values: Array,
    values_low: Array,
    dtype: Any,
) -> Array:
    xp = backend.namespace(reference)
    words = _Sum(xp, reference, high, middle + low)
    s = words.k + words.r
    undefined = xp.isnan(high) | words.infinite
    s, undefined = (_spread(xp, each, values.ndim - s.ndim) for each in (s, undefined))
    mean = (values + values_low) / s
    return xp.astype(xp.where(undefined, xp.full_like(mean, xp.nan), mean), dtype, copy=False)


_NAMES = ("high", "middle", "low", "values_high", "values_low")
_WORDS = dict.fromkeys(_NAMES[:3])
# the maximum, exp of it and the sum of the other exponentials, all shifted and with keepdims, of an array as prepared
_SUMS = Operation("LogSumExp.sums", lambda backend, x, axes: NotImplemented, {"axes": ()}, operands=())
_EXP = Operation("LogSumExp.exp", lambda backend, g: NotImplemented, {}, operands=())
_FROM_ARRAY = Operation(
    "LogSumExp.from_array",
    _from_array,
    {"axis": None, "where": None, "b": None, "keepdims": False},
    operands=("where", "b"),
)
_FROM_LOG = Operation("LogSumExp.from_logsumexp", _from_log, {"values": None}, operands=("values",))
_OTHERS = ("other_reference", *(f"other_{name}" for name in _NAMES))
_call_merge = functools.partial(
    Operation("LogSumExp.merge", _merge, dict.fromkeys((*_NAMES, *_OTHERS)), (*_NAMES, *_OTHERS)).call, False
)
_call_value = functools.partial(
    Operation(
        "LogSumExp.value", _value, {**_WORDS, "base": None, "dtype": None, "return_sign": False}, _NAMES[:3]
    ).call,
    False,
)
_call_weights = functools.partial(
    Operation(
        "LogSumExp.softmax_weights",
        _weights,
        {"reference": None, **_WORDS, "dtype": None},
        ("reference", *_NAMES[:3]),
    ).call,
    False,
)
_call_mean = functools.partial(
    Operation("LogSumExp.mean", _mean, {**dict.fromkeys(_NAMES), "dtype": None}, _NAMES).call, False
)
