"""Drawing from logits by the Gumbel-max trick: argmax(x + g) has the distribution softmax(x) if g is Gumbel noise.

A draw is noise, which a framework's own generator gives, and then a deterministic function of logits and noise. Only
32 random bits are asked of a framework; all else is one implementation.

The winner of a row is far out in the upper tail of the noise, where −log(−log u) has few values left, u being next to
1: none above 16.6 in float32, and +inf or −inf now and then. Here v = 1 − u is the random number, which is next to 0
there, where floats are dense; the half in k + ½ keeps it from 0.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature
from anysoft._shift import quotient
from anysoft.registry import Backend, Operation, backend_of, backend_of_generator, numpy_backend
from anysoft.softmax import _log_softmax, _softmax

Array = Any


def gumbel(shape: int | Sequence[int], *, rng: Any = None, like: Array | None = None, dtype: Any = None) -> Any:
    r"""Standard Gumbel noise, −log(−log(1 − v)) with v uniform in (0, 1), whose tails are right and never infinite.

    Parameters
    ----------
    shape : int or tuple of int
    rng : generator or int, optional
        The framework's own: a ``numpy.random.Generator`` (or ``RandomState``), a ``torch.Generator``, a key of JAX, a
        ``cupy.random.Generator``; or a seed, 0 ≤ seed < 2⁶³. Left out, the framework's own state or fresh entropy;
        JAX has neither and needs a key. A framework without an adapter takes NumPy's.
    like : array, optional
        The noise is an array of this framework, on this device. Left out, of the framework of `rng`; with a seed, of
        NumPy.
    dtype : dtype, optional
        Left out, the dtype of `like` but float32 for halves, or the default float.

    Returns
    -------
    array
        Of `shape`.

    Notes
    -----
    Special values: there are none, for no draw is infinite or NaN.

    v = min((k + ½)·2⁻³², 1 − 2⁻²⁴) in float32, with k 32 random bits: from −2.8 to 22.9. float64 is made of 64 bits,
    the first 32 of which are those of float32: from −3.6 to 45.1. So in float32 an entry of probability 2⁻³² still has
    its chance beside any number of others, and in float64 one of 2⁻⁶⁴. Halves are drawn in float32 and rounded; as
    noise for sampling, that is too coarse.

    The same seed on the same backend (and device) gives the same noise; on another, other noise.

    Inside a function compiled by PyTorch, draw without `rng`, or pass noise in: it traces no generator.

    Raises
    ------
    TypeError
        For a generator that is not the framework's, or on another device; on JAX, without `rng`; for a dtype that is
        not a floating one.
    ValueError
        For a negative length, and for a seed that is negative or too large.

    References
    ----------
    Gumbel, "Statistical theory of extreme values and some practical applications", 1954. On the tails: jax#5348,
    jax#28946, pytorch#22442.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.gumbel(3, rng=np.random.default_rng(0)).shape)
    (3,)
    """
    lengths = _lengths(shape)
    if like is None:
        backend = backend_of_generator(rng) or numpy_backend()
        xp = backend.namespace(None)
        natural = arguments.default_float(xp, None)
    else:
        owner = backend_of(like)
        if owner is None:
            raise TypeError(f"like must be an array, not {like!r}")
        backend = owner
        xp = backend.namespace(like)
        natural = arguments.carrier(xp, arguments.float_dtype(xp, {"x": like}))
    return _drawn(backend, lengths, rng, like, arguments.result_dtype(xp, natural, dtype))


def categorical(
    logits: Array,
    /,
    axis: int = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    shape: int | Sequence[int] | None = None,
    rng: Any = None,
    noise: Array | None = None,
) -> Any:
    r"""Indices drawn with the probabilities softmax(x/T), as argmax((x − max x)/T + g) with Gumbel noise g.

    Parameters
    ----------
    logits : array
        Of any shape; booleans and integers become the default float.
    axis : int
        Along which one entry is drawn, in the shape of `logits`, `where` and `temperature` broadcast together.
    where : boolean array, optional
        Which entries may be drawn. What it excludes is never looked at.
    temperature : float or array
        T ≥ 0. An array has length one along `axis`. 0 draws from the maxima alone, ∞ from all finite entries alike.
    shape : int or tuple of int, optional
        The result's. The shape without `axis` must broadcast to it: ``shape=(1000,)`` draws a thousand times from one
        row, ``shape=(1000, 3)`` from each of three.
    rng : generator or int, optional
        As for `gumbel`.
    noise : array, optional
        Gumbel noise of your own instead, with as many entries along `axis` as the logits; it broadcasts with them,
        and further axes go before theirs.

    Returns
    -------
    array
        Indices along `axis`, of the namespace's default integer dtype.

    Notes
    -----
    Special values: an entry of −inf, or excluded, is never drawn; where +inf is, one of the +inf is drawn. −1 stands
    for a row from which nothing can be drawn: nothing is left of it but −inf, it holds NaN, or its temperature is
    negative or NaN. (No error, because one would have to look at the values.)

    Accuracy: halves are widened and noise is added in float32, or in float64 to float64 logits. That the noise
    is added to x − max, never to x, keeps the odds right for logits of any size.

    Raises
    ------
    TypeError
        For complex logits, an axis that is not one integer, a mask that is not boolean, a generator that is not
        the framework's own; on JAX, without `rng` and `noise`; for `noise` beside `rng` or `shape`.
    ValueError
        For a temperature that is negative or NaN (in an array: −1), or varies along `axis`; for shapes that do not
        broadcast.
    numpy.exceptions.AxisError
        (an IndexError and a ValueError) For an axis out of range.

    References
    ----------
    Maddison, Tarlow, Minka, "A* sampling", 2014. `shape` is that of ``jax.random.categorical``. That elsewhere halves
    are sampled wrongly and entries of probability 0 are drawn: jax#25749, pytorch#13867, pytorch#48841.

    Examples
    --------
    >>> import numpy as np, anysoft
    >>> print(anysoft.categorical([[0.0, -np.inf], [-np.inf, 0.0], [-np.inf, -np.inf]], rng=0))
    [ 0  1 -1]
    >>> drawn = anysoft.categorical(np.log([0.1, 0.2, 0.7]), shape=(100_000,), rng=0)
    >>> print(np.bincount(drawn) / 100_000)
    [0.10137 0.20008 0.69855]
    """
    temperature = checked_temperature(temperature)
    if noise is None:
        noise = _noise_for(_CATEGORICAL, logits, axis, where, temperature, shape, rng)
    else:
        _alone(noise=noise, rng=rng, shape=shape)
    return _CATEGORICAL.call(False, logits, axis, where, temperature, None, None, noise)


def gumbel_softmax(
    logits: Array,
    /,
    axis: int = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: Any = None,
    hard: bool = False,
    rng: Any = None,
    noise: Array | None = None,
) -> Any:
    r"""Relaxed one-hot draws that have derivatives, softmax((x + g)/T) with Gumbel noise g.

    Parameters
    ----------
    logits, axis, where
        As for `categorical`.
    temperature : float or array
        T ≥ 0 of the relaxation: near 0 almost one-hot, at 0 exactly, and uniform at ∞. It does not change which entry
        is the largest. An array has length one along `axis`.
    dtype : dtype, optional
        The result's dtype.
    hard : bool
        Straight-through: the value is exactly one-hot at the largest x + g, and the derivative that of the soft one.
    rng : generator or int, optional
        As for `gumbel`.
    noise : array, optional
        As for `categorical`. Its dtype does not change the result's.

    Returns
    -------
    array
        The shape of `logits`, `where` and `temperature` (and `noise`) broadcast together.

    Notes
    -----
    Special values are those of `softmax` of x + g, with `hard` too: a row of nothing but −inf, or with +inf or NaN in
    it, is NaN; what `where` excludes is 0, and a row of which it leaves nothing is 0.

    Accuracy: within 4 ulp of the exact answer for logits, noise and temperature moved by at most two roundings; noise
    and logits are added in the wider of their dtypes, and in float32 at least. At a temperature above a thousandth of
    the dtype's largest number, logits further apart than that largest number count as that far apart.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `categorical`; a row with an array's negative or NaN temperature is NaN.

    References
    ----------
    Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", 2017; Maddison, Mnih, Teh, "The concrete
    distribution", 2017. Where ``torch.nn.functional.gumbel_softmax`` is NaN at T = 0 and has no generator:
    pytorch#114107, pytorch#22442.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.gumbel_softmax([1.0, 2.0, 3.0], noise=[0.5, 2.0, 0.25], temperature=0.5))
    [0.00547859 0.81309532 0.18142609]
    >>> print(anysoft.gumbel_softmax([1.0, 2.0, 3.0], noise=[0.5, 2.0, 0.25], hard=True))
    [0. 1. 0.]
    """
    temperature = checked_temperature(temperature)
    if noise is None:
        noise = _noise_for(_GUMBEL_SOFTMAX, logits, axis, where, temperature, None, rng, dtype)
    else:
        _alone(noise=noise, rng=rng)
    return _GUMBEL_SOFTMAX.call(False, logits, axis, where, temperature, dtype, bool(hard), None, noise)


def gumbel_top_k(
    logits: Array,
    /,
    k: int,
    axis: int = -1,
    *,
    where: Array | None = None,
    temperature: Any = 1.0,
    rng: Any = None,
    noise: Array | None = None,
) -> Any:
    r"""Indices drawn without replacement, in order: the k largest of log softmax(x/T) + g with Gumbel noise g.

    Parameters
    ----------
    logits : array
        As for `categorical`.
    k : int
        How many, from 1 to the length of `axis`.
    axis, where, temperature
        As for `categorical`.
    rng : generator or int, optional
        As for `gumbel`.
    noise : array, optional
        As for `categorical`.

    Returns
    -------
    indices : array
        Along `axis`, in the order in which they are drawn: each by softmax over those that are left. Of the
        namespace's default integer dtype.
    keys : array
        The perturbed log-probabilities log p + g of these entries, falling, in the dtype in which they were compared:
        float32 at least. The k-th of k is the threshold of importance weights (Kool et al.).

    Notes
    -----
    Special values: where fewer than k entries can be drawn, the rest have the index −1 and the key −inf. Where +inf
    is, only +inf can be drawn. A row that holds NaN, or whose temperature is negative or NaN, has the index −1 and the
    key NaN throughout.

    Accuracy: the keys are within 4 ulp of the exact ones for logits and noise moved by at most two roundings. They are
    ordered unrounded, so that half-precision logits make no ties.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `categorical`; a `ValueError` for k < 1 and for k beyond the length of `axis`.

    References
    ----------
    Kool, van Hoof, Welling, "Stochastic beams and where to find them: the Gumbel-top-k trick", 2019. Yellott, "The
    relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and the double exponential
    distribution", 1977.

    Examples
    --------
    >>> import anysoft
    >>> indices, keys = anysoft.gumbel_top_k([0.0, 0.0, 0.0, 0.0], 2, noise=[0.5, 2.0, 0.25, 1.0])
    >>> print(indices, keys)
    [1 3] [ 0.61370564 -0.38629436]
    """
    temperature = checked_temperature(temperature)
    if noise is None:
        noise = _noise_for(_GUMBEL_TOP_K, logits, axis, where, temperature, None, rng)
    else:
        _alone(noise=noise, rng=rng)
    return _GUMBEL_TOP_K.call(False, logits, _count(k), axis, where, temperature, None, noise)


def _count(k: Any) -> int:
    try:
        return operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer, not {k!r}") from None


# ---------------------------------------------------------------------------------------------------------------------
# The draw


def _alone(*, noise: Any, **others: Any) -> None:
    for name, value in others.items():
        if value is not None:
            raise TypeError(f"noise is given, and {name} beside it: the noise is the draw, and has its shape")


def _noise_for(
    operation: Operation,
    x: Any,
    axis: Any,
    where: Any,
    temperature: Any,
    shape: int | Sequence[int] | None,
    rng: Any,
    dtype: Any = None,
) -> Array:
    """Noise for each entry of the rows, in the dtype in which it will be added."""
    given = {**operation.defaults, "where": where, "temperature": temperature}
    backend, (x, *options) = operation.bring_together(x, *given.values())
    given = dict(zip(given, options, strict=True))
    xp = backend.namespace(x)
    natural = arguments.float_dtype(xp, {"x": x})
    if not xp.isdtype(natural, "real floating"):
        raise TypeError(f"{operation.name} is of real numbers, not {natural}")
    dtype = arguments.carrier(xp, xp.result_type(natural, arguments.result_dtype(xp, natural, dtype)))
    operands = {"x": x, "where": given["where"], "temperature": given["temperature"]}
    lengths = arguments.broadcast_shape(**{name: a.shape for name, a in operands.items() if hasattr(a, "shape")})
    if shape is not None:
        (place,) = arguments.canonical_axes(_one_axis(axis), len(lengths))
        lengths = _with_rows(lengths or (1,), place, _lengths(shape))
    return _drawn(backend, lengths, rng, x, dtype)


def _with_rows(lengths: tuple[int, ...], axis: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the noise so that the result, which lacks `axis`, is of `shape`."""
    rows = (*lengths[:axis], *lengths[axis + 1 :])
    if arguments.broadcast_shape(rows=rows, shape=shape) != shape:
        raise ValueError(f"rows of shape {rows} do not broadcast to shape {shape}")
    place = len(shape) - (len(lengths) - 1 - axis)
    return (*shape[:place], lengths[axis], *shape[place:])


def _lengths(shape: Any) -> tuple[int, ...]:
    lengths = tuple(map(operator.index, shape if isinstance(shape, tuple | list) else (shape,)))
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape must have no negative length, not {shape!r}")
    return lengths


def _drawn(backend: Backend, shape: tuple[int, ...], rng: Any, like: Array | None, dtype: Any) -> Array:
    xp = backend.namespace(like)
    device = None if like is None else backend.device_of(like)
    if isinstance(rng, int | np.integer):
        rng = operator.index(rng)
        if not 0 <= rng < 2**63:
            raise ValueError(f"rng must be a seed from 0 to 2**63 - 1, not {rng}")
    if _words(xp, arguments.carrier(xp, dtype)) > 1:
        shape = (2, *shape)
    if backend.random_bits is not None:
        bits = backend.random_bits(rng, shape, device)
    else:
        of_numpy = numpy_backend().random_bits
        assert of_numpy is not None
        bits = xp.asarray(of_numpy(rng, shape, None), device=device)
    return _GUMBEL.call(True, bits, dtype)


def _words(xp: Any, dtype: Any) -> int:
    """How many times 32 bits fill a number of this dtype, the small ones too."""
    return 1 if xp.finfo(dtype).bits <= 32 else 2


def _gumbel(backend: Backend, bits: Array, dtype: Any) -> Array:
    xp, unit = backend.namespace(bits), 2.0**-32
    compute = arguments.carrier(xp, dtype)
    if _words(xp, compute) > 1:
        v = (xp.astype(bits[0, ...], compute) + (xp.astype(bits[1, ...], compute) + 0.5) * unit) * unit
    else:
        v = (xp.astype(bits, compute) + 0.5) * unit
    highest = xp.full_like(v, 1.0 - 0.5 * float(xp.finfo(compute).eps))
    v = xp.where(v < highest, v, highest)
    return xp.astype(-xp.log(-xp.log1p(-v)), dtype, copy=False)


# ---------------------------------------------------------------------------------------------------------------------
# Of logits and noise


class _Rows(NamedTuple):
    """Logits in the dtype to add in, −inf where they are excluded, and noise, which may have further axes before."""

    x: Array
    noise: Array
    where: Array | None
    temperature: Array | None
    maximum: Array
    axis: int  # from the end
    dtype: Any  # of a result like the logits
    alone: bool  # the logits are 0-d: a row of one


def _rows(
    backend: Backend,
    name: str,
    x: Array,
    axis: Any,
    where: Array | None,
    temperature: Any,
    noise: Array | None,
    dtype: Any = None,
) -> _Rows:
    xp = backend.namespace(x)
    if noise is None:
        raise TypeError(f"{name} is of logits and noise, and there is no noise")
    rows = arguments.prepared(xp, name, {"x": x}, _one_axis(axis), where=where, temperature=temperature, dtype=dtype)
    (x,), temperature = rows.arrays, rows.temperature
    number = not hasattr(noise, "dtype") or getattr(noise, "weak_type", False)  # what JAX makes of one
    if not number and xp.isdtype(noise.dtype, "real floating"):
        wider = xp.result_type(x.dtype, noise.dtype)
        x, temperature = (None if a is None else xp.astype(a, wider, copy=False) for a in (x, temperature))
    noise = arguments.as_array(xp, noise, x.dtype, x)
    if rows.appended and not noise.ndim:
        noise = xp.expand_dims(noise, axis=0)
    place = rows.axes[0] - x.ndim
    length = x.shape[place]
    if noise.ndim < -place or noise.shape[place] != length:
        raise ValueError(f"noise of shape {tuple(noise.shape)} does not have the {length} entries of axis {axis}")
    arguments.broadcast_shape(x=x.shape, noise=noise.shape)
    maximum = backend.stop_gradient(xp.max(x, axis=place, keepdims=True)) if length else x
    return _Rows(x, noise, rows.where, temperature, maximum, place, rows.dtype, rows.appended)


def _one_axis(axis: Any) -> Any:
    if axis is None or isinstance(axis, tuple | list):
        raise TypeError(f"axis must be an int, not {axis!r}: one entry is drawn along it")
    return axis


def _drawable(backend: Backend, rows: _Rows) -> tuple[_Rows, Array]:
    """Rows from which +inf takes all, as a row of zeros among −inf; and which entries cannot be drawn."""
    xp, x = backend.namespace(rows.x), rows.x
    infinite = rows.maximum == xp.inf
    absent = (x == -xp.inf) | (infinite & (x < xp.inf))
    x = xp.where(absent, xp.full_like(x, -xp.inf), xp.where(infinite, xp.zeros_like(x), x))
    maximum = xp.where(infinite, xp.zeros_like(rows.maximum), rows.maximum)
    return rows._replace(x=x, maximum=maximum), absent


def _categorical(
    backend: Backend, x: Array, axis: Any, where: Array | None, temperature: Any, shape: None, rng: None, noise: Array
) -> Array:
    xp = backend.namespace(x)
    rows, absent = _drawable(backend, _rows(backend, "categorical", x, axis, where, temperature, noise))
    x, axis = rows.x, rows.axis
    integer = arguments.default_integer(xp, x)
    if not x.shape[axis]:  # nothing can be drawn
        reduced = xp.sum(x + rows.noise, axis=axis)
        return xp.full_like(xp.astype(reduced, integer), -1)
    if rows.temperature is None:
        u = xp.where(absent, xp.zeros_like(x), x) - rows.maximum
    else:
        u = quotient(backend, x, rows.maximum, rows.maximum, x == rows.maximum, rows.temperature)
    keys = _added(xp, absent, u, rows.noise)
    index = xp.astype(xp.argmax(keys, axis=axis), integer, copy=False)
    found = xp.max(keys, axis=axis) > -xp.inf  # not where it is NaN
    return xp.where(found, index, xp.full_like(index, -1))


def _added(xp: Any, absent: Array, u: Array, noise: Array) -> Array:
    """u + g, and −inf where there is nothing to draw, whatever the noise is."""
    keys = u + noise
    return xp.where(absent, xp.full_like(keys, -xp.inf), keys)


def _gumbel_softmax(
    backend: Backend,
    x: Array,
    axis: Any,
    where: Array | None,
    temperature: Any,
    dtype: Any,
    hard: bool,
    rng: None,
    noise: Array,
) -> Array:
    xp = backend.namespace(x)
    rows = _rows(backend, "gumbel_softmax", x, axis, where, temperature, noise, dtype)
    x, axis = rows.x, rows.axis
    absent = x == -xp.inf
    finite = xp.where(absent, xp.zeros_like(x), x)
    z = _added(xp, absent, finite - _finite(xp, rows.maximum), rows.noise)
    # Once more, from the winner: x − x_w and g − g_w round less than their sum and a second shift after it.
    winner = z == xp.max(z, axis=axis, keepdims=True) if z.shape[axis] else z > 0
    d, g = (each - _of_winner(backend, winner, each, axis) for each in (finite, rows.noise))
    # what is finite must stay so, for T = ∞
    d = xp.where(d == -xp.inf, xp.full_like(d, -float(xp.finfo(d.dtype).max)), d)
    z = _added(xp, absent, d, g)
    result = _softmax(backend, z, axis, rows.where, rows.temperature, None)
    if hard and z.shape[axis]:
        result = _straight_through(backend, z, result, axis)
        result = result if rows.where is None else xp.where(rows.where, result, xp.zeros_like(result))
    result = xp.astype(result, rows.dtype, copy=False)
    return result[..., 0] if rows.alone else result


def _finite(xp: Any, shift: Array) -> Array:
    return xp.where(xp.isfinite(shift), shift, xp.zeros_like(shift))


def _of_winner(backend: Backend, winner: Array, a: Array, axis: int) -> Array:
    """The entry of `a` where the largest of each row is, as a constant of differentiation; 0 where there is none."""
    xp = backend.namespace(a)
    if not a.shape[axis]:
        return a
    there = xp.where(winner, a, xp.full_like(a, -xp.inf))
    return _finite(xp, backend.stop_gradient(xp.max(there, axis=axis, keepdims=True)))


def _straight_through(backend: Backend, z: Array, soft: Array, axis: int) -> Array:
    """One-hot at the largest entry, with the derivative of `soft`: what is added to it is 0, or NaN."""
    xp = backend.namespace(z)
    places = xp.arange(z.shape[axis], device=getattr(z, "device", None))
    places = xp.reshape(places, (-1, *(1,) * (-axis - 1)))
    one_hot = xp.astype(places == xp.argmax(z, axis=axis, keepdims=True), soft.dtype)
    return one_hot + (soft - backend.stop_gradient(soft))


def _gumbel_top_k(
    backend: Backend,
    x: Array,
    k: int,
    axis: Any,
    where: Array | None,
    temperature: Any,
    rng: None,
    noise: Array,
) -> tuple[Array, Array]:
    xp = backend.namespace(x)
    rows, absent = _drawable(backend, _rows(backend, "gumbel_top_k", x, axis, where, temperature, noise))
    x, axis = rows.x, rows.axis
    if not 1 <= k <= x.shape[axis]:
        raise ValueError(f"k must be from 1 to the {x.shape[axis]} entries of axis {axis}, not {k}")
    keys = _added(xp, absent, _log_softmax(backend, x, axis, None, rows.temperature, None), rows.noise)
    undefined = xp.isnan(xp.max(keys, axis=axis, keepdims=True))
    keys = xp.where(undefined, xp.full_like(keys, xp.nan), keys)
    keys, index = _LARGEST.call(True, keys, k, axis)
    index = xp.astype(index, arguments.default_integer(xp, x), copy=False)
    return xp.where(keys > -xp.inf, index, xp.full_like(index, -1)), keys


def _largest(backend: Backend, x: Array, k: int, axis: int) -> tuple[Array, Array]:
    """The k largest along an axis that is counted from the end, falling, and their places."""
    xp = backend.namespace(x)
    index = xp.argsort(-x, axis=axis, stable=True)[(..., slice(0, k), *(slice(None),) * (-axis - 1))]
    return xp.take_along_axis(x, index, axis=axis), index


def _check(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


_ROWS = {"axis": -1, "where": None, "temperature": 1.0}
_OPERANDS = ("where", "temperature", "noise")
_GUMBEL = Operation("gumbel", _gumbel, {"dtype": None}, ())  # of random bits
_LARGEST = Operation("largest", _largest, {"k": 1, "axis": -1}, ())
_CATEGORICAL = Operation(
    "categorical", _categorical, {**_ROWS, "shape": None, "rng": None, "noise": None}, _OPERANDS, _check
)
_GUMBEL_SOFTMAX = Operation(
    "gumbel_softmax",
    _gumbel_softmax,
    {**_ROWS, "dtype": None, "hard": False, "rng": None, "noise": None},
    _OPERANDS,
    _check,
)
_GUMBEL_TOP_K = Operation(
    "gumbel_top_k", _gumbel_top_k, {"k": 1, **_ROWS, "rng": None, "noise": None}, _OPERANDS, _check
)
