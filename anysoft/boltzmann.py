"""Boltzmann statistics: levels of energies E and degeneracies g at a temperature T, in units with k_B = 1.

Values are made of constants: weights exp((E₀ − E)/T + log g − log g₀) relative to the level of the largest weight, so
that neither a deep ground state, nor a low temperature, nor a huge degeneracy leaves the range. Derivatives are made of
z, how log g − (E − U)/T changes. It is 0, so that what is made of it adds nothing to a value; with the mean energy U
and the probabilities p constants, Z changes by the factor 1 + s, s = Σ p·(e^z − 1), and p to p·e^z/(1 + s), to any
order. No derivative is then a difference of large numbers; and because z is relative to the level that holds most of
the probability, if one does, none is 1 − p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from anysoft import _arguments as arguments
from anysoft._arguments import checked_temperature
from anysoft._shift import quotient, shift_for, total
from anysoft.registry import Backend, Operation

Array = Any


def boltzmann(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
) -> Any:
    r"""Probabilities of states in thermal equilibrium, g·exp(−E/T) / Z with Z = Σ g·exp(−E/T), in units with k_B = 1.

    Parameters
    ----------
    energies : array
        Energies E, of any shape, in the unit of the temperature; booleans and integers become the default float.
    temperature : float or array
        T ≥ 0, times Boltzmann's constant. An array has length one along `axis`, and does not change the result's dtype.
    axis : int, tuple of int or None
        The axes along which the states of one system lie; None is all of them.
    where : boolean array, optional
        Which states there are. What it excludes is never looked at, NaN included, and gets probability 0.
    log_degeneracy : array, optional
        log g, if not 0: how many states an entry stands for, or any other weight. −inf removes it, whatever its energy.
        The probability is then that of the whole level.
    dtype : dtype, optional
        The result's dtype; the computation is in the wider of this and the natural one, and in float32 at least.

    Returns
    -------
    array
        The shape of all arguments broadcast together; dtype as ``result_type(energies, log_degeneracy)``.

    Notes
    -----
    Limits: at T = 0 the ground states share, in proportion to g; at T = ∞ all states of finite energy do.

    Special values: energy +inf has probability 0. A row with nothing else, or with −inf or NaN in it, or with
    log g = +inf, is NaN at every temperature, as in `softmax`; a row of which `where` leaves nothing is 0.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings. Derivatives with respect to
    energies, temperature and log g are never NaN where the value is not; at T = 0 and T = ∞ probabilities do not depend
    on energies or temperature.

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
    Landau, Lifshitz, "Statistical Physics, Part 1", §28. Without degeneracies it is `softmax` of −E.

    Examples
    --------
    The ortho- and parahydrogen of a gas at 80 K: rotational levels B·J(J + 1), of 2J + 1 states, for odd J three times.

    >>> import numpy as np, anysoft
    >>> j = np.arange(8)
    >>> p = anysoft.boltzmann(85.3 * j * (j + 1), 80.0, log_degeneracy=np.log((2 * j + 1) * np.where(j % 2, 3, 1)))
    >>> print(round(float(p[::2].sum()), 4))
    0.4859
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_boltzmann(alone, energies, temperature, axis, where, log_degeneracy, dtype)


def log_partition(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The logarithm of the partition function, log Z = log Σ g·exp(−E/T), in units with k_B = 1.

    Parameters
    ----------
    energies, temperature, axis, where, log_degeneracy, dtype
        As for `boltzmann`.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        No unit. The shape of all arguments broadcast together, less the reduced axes.

    Notes
    -----
    Limits: at T = 0, −E₀/T with the ground energy E₀ is +inf or −inf; where E₀ is exactly 0 it is log g₀, with g₀ the
    number of ground states. At T = ∞ it is log Σ g.

    Special values, as in `logsumexp`: no state (none at all, none that `where` leaves, or none of finite energy and
    log g > −inf) is −inf; an energy of −inf, or log g = +inf, is +inf; NaN is never swallowed.

    The derivatives are −p/T with respect to energies, U/T² with respect to the temperature, and p to log g; 0 at T = 0
    and T = ∞ but for the last.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings, near 0 too.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `boltzmann`.

    References
    ----------
    Landau, Lifshitz, "Statistical Physics, Part 1", §31.

    Examples
    --------
    A ring of ten Ising spins, J = 1, from the energies of all 1024 states; and by the transfer matrix.

    >>> import itertools, math, numpy as np, anysoft
    >>> spins = np.array(list(itertools.product([-1, 1], repeat=10)))
    >>> energies = -(spins * np.roll(spins, 1, axis=1)).sum(axis=1)
    >>> print(round(float(anysoft.log_partition(energies, 2.0)), 12))
    8.133060917647
    >>> print(round(math.log((2 * math.cosh(0.5)) ** 10 + (2 * math.sinh(0.5)) ** 10), 12))
    8.133060917647
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_log_partition(alone, energies, temperature, axis, where, log_degeneracy, dtype, keepdims)


def free_energy(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The (Helmholtz) free energy, F = −T·log Z = −T·log Σ g·exp(−E/T), in units with k_B = 1.

    Parameters
    ----------
    energies, temperature, axis, where, log_degeneracy, dtype
        As for `boltzmann`.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        In the unit of the energies. The shape of all arguments broadcast together, less the reduced axes.

    Notes
    -----
    Limits: at T = 0 it is the ground energy; at T = ∞ it is −inf, or +inf where Σ g < 1, or the mean energy where Σ g
    is exactly 1, as for a single state.

    Special values: no state (none at all, none that `where` leaves, or none of finite energy and log g > −inf) is +inf;
    an energy of −inf, or log g = +inf, is −inf; NaN is never swallowed.

    The derivatives are p with respect to energies, −S with respect to the temperature, and −T·p to log g.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `boltzmann`.

    References
    ----------
    Landau, Lifshitz, "Statistical Physics, Part 1", §31.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.free_energy([-1.0, 0.0], 0.0), anysoft.free_energy([-1.0, -1.0], 1e-3))
    -1.0 -1.00069314718056
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_free_energy(alone, energies, temperature, axis, where, log_degeneracy, dtype, keepdims)


def mean_energy(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The mean energy, U = Σ p·E with the probabilities p = g·exp(−E/T) / Z, in units with k_B = 1.

    Parameters
    ----------
    energies, temperature, axis, where, log_degeneracy, dtype
        As for `boltzmann`.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        In the unit of the energies. The shape of all arguments broadcast together, less the reduced axes.

    Notes
    -----
    Limits: at T = 0 it is the ground energy; at T = ∞ it is the mean of all energies, weighted with g.

    Special values: energy +inf has probability 0 and counts for nothing. A row with nothing else, or with −inf or NaN
    in it, or with log g = +inf, is NaN. A row of which `where` leaves nothing is 0, as any sum over no state, so that
    padded rows add nothing to a total.

    The derivatives are p·(1 − (E − U)/T) with respect to energies, and the heat capacity with respect to the
    temperature.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `boltzmann`.

    References
    ----------
    Landau, Lifshitz, "Statistical Physics, Part 1", §31.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.mean_energy([0.0, 1.0], 0.025))
    4.248354255291589e-18
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_mean_energy(alone, energies, temperature, axis, where, log_degeneracy, dtype, keepdims)


def gibbs_entropy(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The entropy of thermal equilibrium, S = log Z + U/T = (U − F)/T, in units with k_B = 1.

    Parameters
    ----------
    energies, temperature, axis, where, log_degeneracy, dtype
        As for `boltzmann`.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        No unit. The shape of all arguments broadcast together, less the reduced axes.

    Notes
    -----
    The name: `anysoft.entropy` takes logits, this takes energies. Without degeneracies, it is −Σ p·log p.

    Limits: at T = 0 it is log g₀, with g₀ the number of ground states; at T = ∞ it is log Σ g.

    Special values: energy +inf has probability 0 and counts for nothing. A row with nothing else, or with −inf or NaN
    in it, or with log g = +inf, is NaN. A row of which `where` leaves nothing is 0, as any sum over no state, so that
    padded rows add nothing to a total.

    The derivatives are −p·(E − U)/T² with respect to energies, and C/T with respect to the temperature.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings, also where one state has
    nearly all of the probability.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `boltzmann`.

    References
    ----------
    Landau, Lifshitz, "Statistical Physics, Part 1", §31.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.gibbs_entropy([0.0, 1.0], 0.025), anysoft.gibbs_entropy([0.0, 0.0, 1.0], 0.0))
    1.7418252446695514e-16 0.6931471805599453
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_gibbs_entropy(alone, energies, temperature, axis, where, log_degeneracy, dtype, keepdims)


def heat_capacity(
    energies: Array,
    /,
    temperature: Any = 1.0,
    *,
    axis: Any = -1,
    where: Array | None = None,
    log_degeneracy: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
) -> Any:
    r"""The heat capacity, C = dU/dT = Σ p·(E − U)² / T², in units with k_B = 1.

    Parameters
    ----------
    energies, temperature, axis, where, log_degeneracy, dtype
        As for `boltzmann`.
    keepdims : bool
        Keep reduced axes with length one.

    Returns
    -------
    array
        No unit. The shape of all arguments broadcast together, less the reduced axes.

    Notes
    -----
    Limits: at T = 0 and at T = ∞ it is 0.

    Special values: energy +inf has probability 0 and counts for nothing. A row with nothing else, or with −inf or NaN
    in it, or with log g = +inf, is NaN. A row of which `where` leaves nothing is 0, as any sum over no state, so that
    padded rows add nothing to a total.

    Accuracy: within 4 ulp of the exact answer for arguments moved by at most two roundings, also where next to nothing
    is excited.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `boltzmann`.

    References
    ----------
    Schottky, "Über die Drehung der Atomachsen in festen Körpern", Physikalische Zeitschrift 23, 1922: two levels.

    Examples
    --------
    >>> import anysoft
    >>> print(anysoft.heat_capacity([[0.0, 1.0]] * 3, [[0.025], [0.417], [40.0]]))
    [6.79736681e-15 4.39228661e-01 1.56225588e-04]
    """
    temperature = checked_temperature(temperature)
    alone = temperature is None and where is None and log_degeneracy is None
    return _call_heat_capacity(alone, energies, temperature, axis, where, log_degeneracy, dtype, keepdims)


# ---------------------------------------------------------------------------------------------------------------------
# Rows in equilibrium


class _Levels(NamedTuple):
    """Rows of levels as constants of differentiation, and the rows that answer by themselves, of which none is left.

    What is absent, by its energy, its degeneracy or the mask, has the energy +inf and log g = 0.
    """

    x: Array  # −E
    log_g: Array | None
    top: Array  # the maximum of x, 0 in a row where all is absent
    temperature: Array | None  # 1 where it is none
    dead: Array  # nothing is left
    infinite: Array  # Z is
    undefined: Array


class _Weights(NamedTuple):
    """Probabilities, and the logarithm of the partition function as shift/T + log_sum; constants all."""

    p: Array
    root: Array  # √p, which is in range where p is not
    shift: Array
    log_sum: Array
    exponent: Array  # (x − shift)/T, 0 where √p is
    present: Array  # where it is not

    def average(self, backend: Backend, x: Array, axes: tuple[int, ...]) -> Array:
        """Σ p·x over each row, with all of its digits also where p alone is subnormal."""
        xp = backend.namespace(x)
        small = self.p < xp.finfo(x.dtype).smallest_normal
        return total(backend, xp.where(small, self.root * x * self.root, self.p * x), axes)


class _Ensemble(NamedTuple):
    """Rows in equilibrium: constants first, then what is 0 and has derivatives, relative to the leading level."""

    backend: Backend
    axes: tuple[int, ...]
    levels: _Levels
    weights: _Weights
    mean: Array  # U, nearly
    half: Array  # (E − U)/2, because E − U may overflow; with derivatives
    y: Array  # −(E − U)/T; with derivatives
    t: Array  # the temperature, with derivatives but at ∞
    cooling: Array  # 1, as T/T with the derivatives of 1/T
    z: Array  # of log g − (E − U)/T
    z_energy: Array  # of −(E − U)/T alone
    z_degeneracy: Array  # of log g alone
    lead: Array  # z and z_degeneracy of the leading level
    lead_degeneracy: Array
    s: Array  # Σ p·(e^z − 1)

    def constant_average(self, x: Array) -> Array:
        """Σ p·x with p a constant."""
        return self.weights.average(self.backend, x, self.axes)

    def average(self, x: Array) -> Array:
        """Σ p·x."""
        return self.constant_average(x * self.backend.namespace(x).exp(self.z)) / (1.0 + self.s)


def _levels(backend: Backend, rows: arguments.Prepared) -> _Levels:
    x, *more = map(backend.stop_gradient, rows.arrays)
    xp, axes = backend.namespace(x), rows.axes
    low, zero = xp.full_like(x, -xp.inf), xp.zeros_like(x)
    x = -x if rows.where is None else xp.where(rows.where, -x, low)
    log_g = more[0] if more else None
    if log_g is not None:
        removed = log_g == -xp.inf
        x, log_g = xp.where(removed, low, x), xp.where(removed, zero, log_g)
    top = xp.max(x, axis=axes, keepdims=True)
    undefined, infinite = xp.isnan(top), top == xp.inf
    if log_g is not None:
        most = xp.max(log_g, axis=axes, keepdims=True)
        both = xp.any((log_g == xp.inf) & (x == -xp.inf), axis=axes, keepdims=True)  # ∞ · exp(−∞)
        undefined, infinite = undefined | xp.isnan(most) | both, infinite | (most == xp.inf)
    t = rows.temperature
    if t is not None:
        t = backend.stop_gradient(t)
        undefined = undefined | ~(t >= 0)
        t = xp.where(t >= 0, t, xp.ones_like(t))
    odd = undefined | infinite
    dead = odd | (top == -xp.inf)
    x, top = xp.where(odd, low, x), xp.where(dead, xp.zeros_like(top), top)
    if log_g is not None:
        log_g = xp.where(odd, zero, log_g)
    return _Levels(x, log_g, top, t, dead, infinite & ~undefined, undefined)


def _relative(backend: Backend, levels: _Levels, shift: Array) -> Array:
    """(x − shift)/T."""
    if levels.temperature is None:
        return levels.x - shift
    return quotient(backend, levels.x, shift, levels.top, levels.x == levels.top, levels.temperature)


def _weights(backend: Backend, levels: _Levels, axes: tuple[int, ...], *, in_range: bool) -> _Weights:
    """Relative to the level of the largest weight; or, `in_range`, to none where exp is in range (see _shift.py)."""
    x, log_g, top, t, dead = levels[:5]
    xp = backend.namespace(x)
    low, zero = xp.full_like(x, -xp.inf), xp.zeros_like(x)
    if log_g is None:
        shift = shift_for(xp, top, t) if in_range else top
        w = exponent = _relative(backend, levels, shift)
        tied = x == top
    else:
        # Which weight is the largest, −E/T + log g says, with no other level's rounding; the ground energy is taken
        # away first only where the quotient would overflow, or is a limit.
        t_or_1 = xp.ones_like(top) if t is None else t
        plain = (t_or_1 > 0) & (t_or_1 < xp.inf)
        plain = plain & (xp.abs(top / xp.where(plain, t_or_1, xp.ones_like(t_or_1))) < xp.inf)
        key = _relative(backend, levels, xp.where(plain, xp.zeros_like(top), top)) + log_g
        peak = xp.max(key, axis=axes, keepdims=True)
        shift = xp.max(xp.where(key == peak, x, low), axis=axes, keepdims=True)
        base = xp.max(xp.where((key == peak) & (x == shift), log_g, low), axis=axes, keepdims=True)
        alone = dead | (plain & (shift_for(xp, peak) == 0)) if in_range else dead
        shift, base = (xp.where(alone, xp.zeros_like(top), each) for each in (shift, base))
        exponent = _relative(backend, levels, shift)
        w = exponent + (log_g - base)
        # the rounding of a large log g, which may be larger than any range
        rest = xp.max(w, axis=axes, keepdims=True)
        tied = w == rest
        rest = xp.where(alone, xp.zeros_like(rest), rest)
        w, base = w - rest, base + rest
    e = xp.exp(w)
    k = total(backend, xp.where(tied, e, zero), axes)
    r = total(backend, xp.where(tied, zero, e), axes)
    k = xp.where(dead, xp.ones_like(k), k)
    log_sum = xp.log1p(r + (k - 1.0))
    log_sum = log_sum if log_g is None else base + log_sum
    root = xp.exp(0.5 * w) / xp.sqrt(k + r)
    present = root > 0
    return _Weights(e / (k + r), root, shift, log_sum, xp.where(present, exponent, zero), present)


def _ensemble(backend: Backend, rows: arguments.Prepared, *, in_range: bool = False) -> _Ensemble:
    levels = _levels(backend, rows)
    weights = _weights(backend, levels, rows.axes, in_range=in_range)
    xp, stop, present = backend.namespace(levels.x), backend.stop_gradient, weights.present
    zero = xp.zeros_like(levels.x)
    largest = float(xp.finfo(zero.dtype).max)
    mean = weights.average(backend, xp.where(present, -levels.x, zero), rows.axes)
    mean = xp.clip(mean, -largest, largest)  # equal energies near the largest number: p may add up to a bit more than 1
    half = 0.5 * xp.where(present, rows.arrays[0], mean) - 0.5 * mean
    t, cooling, divisor = _cooling(backend, rows.temperature, levels.temperature, mean)
    y = -2.0 * (half / divisor)
    if levels.temperature is not None:
        proper = (levels.temperature > 0) & (levels.temperature < xp.inf)
        y = xp.where(proper, y, xp.zeros_like(y)) * cooling
    z_energy = y - stop(y)
    leading = weights.p > 0.5
    lead = total(backend, xp.where(leading, z_energy, zero), rows.axes)
    z = z_energy = z_energy - lead
    z_degeneracy = lead_degeneracy = xp.zeros_like(lead)
    if levels.log_g is not None:
        log_g = xp.where(present, rows.arrays[1], zero)
        z_degeneracy = log_g - stop(log_g)
        lead_degeneracy = total(backend, xp.where(leading, z_degeneracy, zero), rows.axes)
        z_degeneracy = z_degeneracy - lead_degeneracy
        z = z + z_degeneracy
    s = weights.average(backend, xp.expm1(z), rows.axes)
    return _Ensemble(
        backend, rows.axes, levels, weights, mean, half, y, t, cooling, z, z_energy, z_degeneracy,
        lead + lead_degeneracy, lead_degeneracy, s,
    )  # fmt: skip


def _cooling(backend: Backend, given: Array | None, t: Array | None, like: Array) -> tuple[Array, Array, Array]:
    """T with derivatives, T/T with those of 1/T, and T as a divisor; 1 where they would be a limit's."""
    xp = backend.namespace(like)
    one = xp.ones_like(like)
    if given is None or t is None:
        return one, one, one
    # 1/T² is in range only of a T brought near 1 (by a power of two, which rounds nothing)
    reach = -int(math.log2(float(xp.finfo(like.dtype).smallest_normal))) // 5 * 2
    scale = xp.where(t < 2.0**-reach, one * 4.0**reach, xp.where(t > 2.0**reach, one * 4.0**-reach, one))
    proper = (given > 0) & (given < xp.inf)
    tau = xp.where(proper, given, one) * scale
    cooling = backend.stop_gradient(tau) / tau
    return xp.where(proper | (given == 0), given, one), cooling, xp.where(proper, t, one)


# ---------------------------------------------------------------------------------------------------------------------
# What follows of it


def _log_partition(of: _Ensemble) -> Array:
    levels, weights = of.levels, of.weights
    xp = of.backend.namespace(of.mean)
    if levels.temperature is None:
        value, slope = weights.shift + weights.log_sum, -of.mean
    else:
        t, endless = levels.temperature, weights.shift * xp.inf
        proper = (t > 0) & (t < xp.inf)
        t = xp.where(proper, t, xp.ones_like(t))
        cold = (levels.temperature == 0) & (weights.shift != 0)
        ground = xp.where(levels.temperature < xp.inf, weights.shift / t, xp.zeros_like(weights.shift))
        value = xp.where(cold, endless, ground) + weights.log_sum
        slope = -of.mean / t
        slope = xp.where(proper & (xp.abs(slope) < xp.inf), slope, xp.zeros_like(slope)) * of.cooling
    value = value + (xp.log1p(of.s) + of.lead) + (slope - of.backend.stop_gradient(slope))
    value = xp.where(levels.dead, xp.full_like(value, -xp.inf), value)
    value = xp.where(levels.infinite, xp.full_like(value, xp.inf), value)
    return xp.where(levels.undefined, xp.full_like(value, xp.nan), value)


def _entropy_of(of: _Ensemble) -> Array:
    return of.weights.log_sum - of.constant_average(of.weights.exponent)


def _bent(of: _Ensemble, *, settled: bool) -> Array:
    """log(1 + s) less Σ p·z, with p the changed probabilities if `settled`: what is left is of second order.

    What is of first order cancels exactly where the two meet, which is why they meet before anything else joins them.
    """
    xp = of.backend.namespace(of.z)
    z_energy = 1.0 * of.z_energy  # an array of its own, where its derivatives are added up
    z = z_energy + of.z_degeneracy
    s = of.constant_average(xp.expm1(z))
    mean = of.constant_average(z_energy * xp.exp(z)) / (1.0 + s) if settled else of.constant_average(z_energy)
    return xp.log1p(s) - mean + of.lead_degeneracy


def _free_energy(of: _Ensemble) -> Array:
    levels, weights = of.levels, of.weights
    xp, stop = of.backend.namespace(of.mean), of.backend.stop_gradient
    value = -weights.shift - stop(of.t) * weights.log_sum
    endless = None
    if levels.temperature is not None:
        endless = (levels.temperature == xp.inf) & (weights.log_sum != 0)
        value = xp.where(levels.temperature < xp.inf, value, of.mean)
    energies = 2.0 * (of.half - stop(of.half))
    value = value + of.constant_average(energies)
    value = value - (of.t - stop(of.t)) * _entropy_of(of) - of.t * _bent(of, settled=False)
    if endless is not None:
        value = xp.where(endless, -xp.inf * xp.where(endless, weights.log_sum, xp.ones_like(value)), value)
    value = xp.where(levels.dead, xp.full_like(value, xp.inf), value)
    value = xp.where(levels.infinite, xp.full_like(value, -xp.inf), value)
    return xp.where(levels.undefined, xp.full_like(value, xp.nan), value)


def _mean_energy(of: _Ensemble) -> Array:
    return _alive(of, of.mean + 2.0 * of.average(of.half))


def _gibbs_entropy(of: _Ensemble) -> Array:
    # −Σ p·(y + z) + log(1 + s), with y a constant
    y = of.backend.stop_gradient(of.y)
    return _alive(of, _entropy_of(of) - (of.average(y) - of.constant_average(y)) + _bent(of, settled=True))


def _heat_capacity(of: _Ensemble) -> Array:
    # At a peak of C, a rounding of the energies costs nothing: the value is of the exponents as the weights have them.
    # One that is not in both costs twice what it is: what the difference rounds away is added again (Fast2Sum).
    exponent = of.weights.exponent
    centre = of.constant_average(exponent)
    y = exponent - centre
    value = of.constant_average(y * (y + 2.0 * ((exponent - y) - centre)))
    changing = of.average(of.y**2) - of.average(of.y) ** 2
    return _alive(of, value + (changing - of.backend.stop_gradient(changing)))


def _alive(of: _Ensemble, value: Array) -> Array:
    """NaN for a row in which nothing has a probability."""
    xp = of.backend.namespace(value)
    return xp.where(of.levels.dead, xp.full_like(value, xp.nan), value)


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def _boltzmann(
    backend: Backend, energies: Array, temperature: Any, axis: Any, where: Array | None, log_g: Any, dtype: Any
) -> Array:
    xp = backend.namespace(energies)
    rows = _rows(xp, "boltzmann", energies, temperature, axis, where, log_g, dtype)
    p = rows.arrays[0]
    if all(n != 0 for n in p.shape):
        of = _ensemble(backend, rows, in_range=True)
        p = _alive(of, of.weights.p * xp.exp(of.z) / (1.0 + of.s))
        p = p if where is None else xp.where(rows.where, p, xp.zeros_like(p))
    p = xp.astype(p, rows.dtype, copy=False)
    return p[..., 0] if rows.appended else p


def _rows(
    xp: Any, name: str, energies: Array, temperature: Any, axis: Any, where: Array | None, log_g: Any, dtype: Any
) -> arguments.Prepared:
    arrays = {"x": energies} if log_g is None else {"x": energies, "log_degeneracy": log_g}
    return arguments.prepared(xp, name, arrays, axis, where=where, temperature=temperature, dtype=dtype)


def _reduction(name: str, value_of: Callable[[_Ensemble], Array], nothing: float) -> Callable[..., Any]:
    """The call of a function with one value a row, `nothing` for a row without any state."""

    def generic(
        backend: Backend,
        energies: Array,
        temperature: Any,
        axis: Any,
        where: Array | None,
        log_g: Any,
        dtype: Any,
        keepdims: bool,
    ) -> Array:
        xp = backend.namespace(energies)
        rows = _rows(xp, name, energies, temperature, axis, where, log_g, dtype)
        if any(rows.arrays[0].shape[one] == 0 for one in rows.axes):
            value = xp.sum(rows.arrays[0], axis=rows.axes, keepdims=True) + nothing
        else:
            value = value_of(_ensemble(backend, rows))
            if rows.where is not None:
                some = xp.any(rows.where, axis=rows.axes, keepdims=True)
                value = xp.where(some, value, xp.full_like(value, nothing))
        return arguments.reduced(xp, value, rows, keepdims)

    return Operation(name, generic, {**_DEFAULTS, "keepdims": False}, _OPERANDS, _check).call


def _check(given: dict[str, Any]) -> None:
    given["temperature"] = checked_temperature(given["temperature"])


_DEFAULTS = {"temperature": 1.0, "axis": -1, "where": None, "log_degeneracy": None, "dtype": None}
_OPERANDS = ("temperature", "where", "log_degeneracy")

_call_boltzmann = Operation("boltzmann", _boltzmann, _DEFAULTS, _OPERANDS, _check).call
_call_log_partition = _reduction("log_partition", _log_partition, -math.inf)
_call_free_energy = _reduction("free_energy", _free_energy, math.inf)
_call_mean_energy = _reduction("mean_energy", _mean_energy, 0.0)
_call_gibbs_entropy = _reduction("gibbs_entropy", _gibbs_entropy, 0.0)
_call_heat_capacity = _reduction("heat_capacity", _heat_capacity, 0.0)
